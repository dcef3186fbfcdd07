"""What became of a dataset over its versions: differences, lineage, tags, and what may go."""
