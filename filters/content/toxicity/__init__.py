"""Toxic texts by word list or model."""
