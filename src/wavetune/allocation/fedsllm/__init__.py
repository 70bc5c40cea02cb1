"""FedsLLM: learning accuracy and bandwidths (FDMA) together, and their step to whole subchannels."""
