"""Prefect flows and the command line: the thin top layer."""
