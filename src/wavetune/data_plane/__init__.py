"""The wire of a deployed split system: certificates, messages, streams and the two halves of the training engine."""

import os
from importlib.util import find_spec

from wavetune.errors import ConfigError

PROTOCOL_VERSION = 3

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it logs beside our sentences is for its own developers

if None in map(find_spec, ("grpc", "google", "cryptography")):
    raise ConfigError(
        "servers and devices need grpcio, protobuf and cryptography, which are not all installed: install the extra "
        "`deploy` (pip install 'wavetune[deploy]', in a checkout pip install -e '.[deploy]')"
    )
