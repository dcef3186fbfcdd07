"""Answers rated on the items of a rubric by a model."""
