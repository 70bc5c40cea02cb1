"""What forks of tests begin with: importing this loads what a run needs, in one thread and without a gradient."""

import scipy.sparse.csgraph

import wavetune.models.kernels
import wavetune.reporting.html
from helpers.runs import small
from wavetune.allocation.describe import sensitivities
from wavetune.runtimes.session import build

__all__ = ["scipy", "sensitivities", "wavetune"]
build(small())
