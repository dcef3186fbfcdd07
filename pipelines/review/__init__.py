"""Reviews of versions and files: made from their rows, and published as a new version."""
