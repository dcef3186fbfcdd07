"""Instructions searched for by Monte Carlo tree search."""
