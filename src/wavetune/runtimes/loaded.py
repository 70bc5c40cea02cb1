"""What a fork begins with: importing this loads it, without what light imports leave out."""

from importlib import import_module

from wavetune.models import light_imports

light_imports.install()
for _name in (
    "numba",
    "wavetune.cli",  # by its name, as it stands above
    "wavetune.recipes",
    "wavetune.runtimes.deployed",
    "wavetune.runtimes.device",
    "wavetune.runtimes.inprocess",
):
    import_module(_name)
