"""Merging trained models: adapters by user weights, whole models along a path."""
