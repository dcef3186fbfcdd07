"""Models held against pairs that they did not see: scores, tables, tests, a page."""
