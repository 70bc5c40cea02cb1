"""Scripts of tools/ and benchmarks/ as modules."""

import importlib.util
import sys
from unittest import mock


def script(path):
    """The module of a script, as if it ran in its folder."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "path", [str(path.parent), *sys.path]):
        spec.loader.exec_module(module)
    return module
