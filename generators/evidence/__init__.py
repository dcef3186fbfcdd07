"""Claims of answers, and the passages of a corpus that bear on them."""
