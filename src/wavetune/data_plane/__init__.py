"""The wire of a deployed split system: certificates, messages, streams and the two halves of the training engine."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it logs beside our sentences is for its own developers
