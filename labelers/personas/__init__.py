"""Whether answers are those of their persona: items it was not told, and its style."""
