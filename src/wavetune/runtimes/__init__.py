"""Where a recipe runs: everything in this process, or spread over machines."""
