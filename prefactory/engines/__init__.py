"""Models behind one interface, opened when they are needed."""
