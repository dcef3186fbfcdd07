"""What is made of people's votes at the command line: read, reported, exchanged, compared."""
