"""What workers of a pool load, in a folder of its own."""
