"""Transformers and PyTorch opened without what only other machines need, which spares time and memory of a start.

Its models come with tools that slice them over GPUs, compile them and match boxes in images, which import most of
SciPy, accelerate and PyTorch's compiler. And at each start it reads all its files to know which defines which name.
PyTorch, for what its compiler asks, writes in Python what hundreds of operators make of tensors without storage.
Only processes of wavetune alone do this, those of the command line and of its app for Flower: a program that imports
wavetune has transformers as it is.
"""

import atexit
import gc
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib import import_module
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

from wavetune.left_out import Around, Finder, found_by_others, leave_out

CORE = (
    "transformers.distributed.parallel_utils",
    "transformers.generation.utils",
    "transformers.integrations",
    "transformers.masking_utils",
    "transformers.modeling_utils",
    "transformers.pytorch_utils",
)
DECORATORS = "torch._dynamo"  # they mark what is not to be compiled
SLICES = "torch.distributed.tensor"
LEFT_OUT = (
    DECORATORS,
    "accelerate",
    "scipy.optimize",
    "torch.distributed._composable",
    "torch.distributed._functional_collectives",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    SLICES,
    "transformers.distributed.expert_parallel",
    "transformers.distributed.tensor_parallel",
)
WITHOUT_STORAGE = "torch._meta_registrations"
AFTER_IT = ("torch._decomp", "torch._prims", "torch._refs", "torch.utils._content_store")  # in no other order
_NEW_OBJECTS = 50_000  # after which Python looks for garbage, where it has 700
_BUILDING = Finder((), (DECORATORS, SLICES), DECORATORS)
_OPENING = Finder((), (WITHOUT_STORAGE, *AFTER_IT))


def install() -> None:
    """From now on this process imports transformers in this way, and looks for cycles of garbage less often, in the end
    not at all: nearly all that imports make is there to stay.
    """
    gc.set_threshold(_NEW_OBJECTS)
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    leave_out(CORE, LEFT_OUT, DECORATORS)
    if not any(isinstance(finder, _Changing) for finder in sys.meta_path):
        sys.meta_path[:0] = [_Changing(), _BUILDING, _OPENING]


def building() -> AbstractContextManager[None]:
    """While in this block, models are built and opened without PyTorch's compiler and its slices of tensors, if at all
    something is left out in this process.

    Operators on tensors without storage import the one to mark what it is not to compile, and who asks whether a tensor
    is a slice imports the others.
    """
    return _BUILDING.among_placeholders()


def compute_without_storage() -> None:
    """From now on every operator of PyTorch that can tell the shape of what it makes does so on the meta device."""
    import_module(WITHOUT_STORAGE)


class _Changing(MetaPathFinder):
    """Finds the files that are run by loaders of our own."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        """Such a file; nothing for all else."""
        if fullname not in _LOADERS:
            return None
        spec = found_by_others(self, fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _LOADERS[fullname](spec.loader)
        return spec


class _Names(Around):
    """Lets the file of transformers that reads which file defines which name look it up."""

    def exec_module(self, module: ModuleType) -> None:
        from wavetune.models.import_names import kept_names

        self.own.exec_module(module)
        define = vars(module).get("define_import_structure")
        if define is not None:
            vars(module)["define_import_structure"] = partial(kept_names, define)


class _After(Around):
    """Has imported before a package what imports it in its turn."""

    def exec_module(self, module: ModuleType) -> None:
        if WITHOUT_STORAGE in sys.modules:
            self.own.exec_module(module)
        else:
            del sys.modules[module.__name__]  # where the import looks for what it has made
            compute_without_storage()


class _PyTorch(Around):
    """Lets PyTorch import what was left out as soon as it asks for it, and make random streams without it."""

    def exec_module(self, module: ModuleType) -> None:
        with _OPENING.among_placeholders():
            self.own.exec_module(module)
        own = vars(module)
        if "_lazy_modules" not in own:
            compute_without_storage()
            return
        own["_lazy_modules"].update(name.rpartition(".")[2] for name in (WITHOUT_STORAGE, *AFTER_IT))
        if set_class := getattr(own["_C"], "_set_generator_metaclass", None):
            from torch._opaque_base import OpaqueBaseMeta

            set_class(OpaqueBaseMeta)


_LOADERS = {"torch": _PyTorch, "transformers.utils.import_utils": _Names, **dict.fromkeys(AFTER_IT, _After)}
