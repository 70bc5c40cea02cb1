"""A filter, a mixing rule and a recipe of somebody else's, for wavetune."""
