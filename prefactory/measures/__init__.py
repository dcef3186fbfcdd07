"""Statistics of preference data that every package may use."""
