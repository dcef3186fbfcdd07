"""Spaces of vectors: means on the sphere, how evenly they fill it, and what a change keeps."""
