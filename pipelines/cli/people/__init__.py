"""Commands about people: reviews, their votes, and the catalog in a browser."""
