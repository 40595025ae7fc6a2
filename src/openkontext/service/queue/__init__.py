"""Jobs: what waits, is worked on and is done, and how clients see it."""
