"""System messages over value systems, and where they are put."""
