"""Answers to prompts, and pairs of answers that differ on purpose."""
