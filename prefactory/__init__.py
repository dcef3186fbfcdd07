"""The contract: what the author of a step imports."""
