"""Answers decoded under a value model."""
