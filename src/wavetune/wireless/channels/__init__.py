"""Where the gains of a round come from: drawn anew every round, or a trace. One file a kind."""
