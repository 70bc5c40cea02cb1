"""Exit codes that scripts may rely on; 0 is success and 1 what Python makes of a fault in wavetune."""

REFUSED = 2
INFEASIBLE = 3
INTERRUPTED = 130
