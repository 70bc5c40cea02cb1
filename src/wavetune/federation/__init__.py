"""Split federated training: the stacked cohort, the cut, codecs, mixing, planning and accounting of a round."""
