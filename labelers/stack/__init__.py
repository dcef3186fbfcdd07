"""Scorers and checks that learn from the labels of pairs: what they teach, and which are wrong."""
