"""Scores by rule: texts, statistics, verifiable answers and constraints."""
