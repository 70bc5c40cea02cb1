"""Plan, train and deploy federated and split-federated fine-tuning of language models over wireless networks.

`import wavetune as wt` gives the functions of `__all__`; each is imported with what it needs when it is first used.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_HOMES = {  # what each public name is imported from
    "Callback": "wavetune.callbacks",
    "Ranking": "wavetune.api.rank",
    "Planned": "wavetune.api.plan",
    "Recipe": "wavetune.recipe",
    "Run": "wavetune.api.load_run",
    "Swept": "wavetune.api.sweep",
    "WavetuneError": "wavetune.errors",
    "compare": "wavetune.api.rank",
    "rank": "wavetune.api.rank",
    "deploy": "wavetune.api.deploy",
    "load_run": "wavetune.api.load_run",
    "plan": "wavetune.api.plan",
    "recipe": "wavetune.api.recipe",
    "run": "wavetune.api.run",
    "sweep": "wavetune.api.sweep",
}
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


class _Package(ModuleType):
    """The package, in which `recipe` and `sweep` stay functions when the modules of these names are imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
