"""Readers of columnar files: Parquet, Arrow IPC files and streams, and what they stand for."""
