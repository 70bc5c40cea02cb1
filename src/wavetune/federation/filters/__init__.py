"""What a server makes of the updates that came before it mixes them: fills gaps, refuses, reweights or adds them."""
