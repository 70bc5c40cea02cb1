"""A filter, a mixing rule, an objective, a phase and a recipe of somebody else's, for wavetune."""
