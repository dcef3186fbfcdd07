"""prefactory/engines."""
