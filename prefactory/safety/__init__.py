"""What keeps hostile recipes, models, servers and texts from doing harm (`docs/security.md`)."""
