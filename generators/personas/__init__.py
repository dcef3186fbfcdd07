"""Personas, their prompts, and instructions that fit them."""
