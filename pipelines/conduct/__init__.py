"""Around a run: how it stops, and the server that it starts for itself."""
