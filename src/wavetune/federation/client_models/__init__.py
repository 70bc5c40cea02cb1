"""Models that clients train in the place of the servers', one kind a file."""
