"""Pairs from pictures: several composed into one question, and near misses among them."""
