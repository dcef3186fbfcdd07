"""A vector that steers a model's answers: its file, its hook, and the engine that applies it."""
