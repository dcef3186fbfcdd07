"""`prefactory serve`: the app of the reviews browses a home: versions, rows, models, runs."""
