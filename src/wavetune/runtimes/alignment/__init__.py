"""Local alignment, wherever a run's clients are: their task, the work on it here and on devices, its phase."""
