"""Choosing a budget of rows: pure functions on arrays, which the steps of `filters` wrap."""
