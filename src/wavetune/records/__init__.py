"""What a run writes down: its records, as they are written and as they are read. Needs no torch."""
