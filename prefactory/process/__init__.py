"""Supervision of the steps of an answer: what their labels mean, and how steps become tokens."""
