"""What the processes of one home do side by side: locks, claims of calls, budgets."""
