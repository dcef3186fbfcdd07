"""Conversations played between actors over a scenario."""
