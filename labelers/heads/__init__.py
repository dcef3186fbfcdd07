"""Linear heads on frozen vectors, fitted to labels or scores."""
