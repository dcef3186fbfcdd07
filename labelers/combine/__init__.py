"""Several objectives into one score: scales, weights, palettes."""
