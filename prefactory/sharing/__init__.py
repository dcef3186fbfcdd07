"""What processes do side by side, in a home or by a bucket: locks, claims, answers, budgets."""
