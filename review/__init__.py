"""Review: people read, label, correct and adjudicate rows in a browser; every vote is kept."""
