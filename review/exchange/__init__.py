"""A review's rows as tasks of other tools, and what people said there as annotations."""
