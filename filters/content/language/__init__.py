"""Languages by script or model."""
