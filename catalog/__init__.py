"""Sources, immutable versions, manifests, cards, layouts."""
