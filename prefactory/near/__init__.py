"""Near-duplicate texts: shingle sets, MinHash signatures, verified pairs and their clusters."""
