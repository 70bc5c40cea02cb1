"""Packages that are imported without some that they import and hardly use.

While a module of such a package is imported, what is left out is a placeholder: a name of it is imported in earnest
when it is called or asked for, and nothing is an instance of a class that nobody has imported. Afterwards it is as it
was, for whoever imports it.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def leave_out(core: Sequence[str], left_out: Sequence[str], decorators: str = "") -> None:
    """From now on the modules `core` are imported, by whomever, without the packages `left_out`.

    Of the package `decorators`, one of these, decorators alone are asked for, which then change nothing.
    """
    finder = Finder(core, left_out, decorators)
    if not any(isinstance(other, Finder) and other.core == core for other in sys.meta_path):
        sys.meta_path.insert(0, finder)


class Finder(MetaPathFinder):
    """Finds placeholders for what is left out while a module of the core is being imported."""

    def __init__(self, core: Sequence[str], left_out: Sequence[str], decorators: str = "") -> None:
        self.core, self.left_out, self.decorators = core, left_out, decorators
        self.importing = 0

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        """A placeholder for what is left out, the core to be run among them, and nothing for all else."""
        if self.importing and any(fullname == name or fullname.startswith(name + ".") for name in self.left_out):
            return ModuleSpec(fullname, _PlaceholderLoader(self), is_package=True)
        if fullname not in self.core:
            return None
        spec = found_by_others(self, fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _CoreLoader(spec.loader, self)
        return spec

    @contextmanager
    def among_placeholders(self) -> Iterator[None]:
        """While in this block, what is left out is a placeholder, unless it is imported already."""
        self.importing += 1
        try:
            yield
        finally:
            self.importing -= 1
            if not self.importing:
                self.take_away()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """While in this block, what is imported is imported in earnest."""
        importing, self.importing = self.importing, 0
        self.take_away()
        try:
            yield
        finally:
            self.importing = importing

    def take_away(self) -> None:
        """Nobody finds a placeholder from now on."""
        for name, module in list(sys.modules.items()):
            if isinstance(module, _Placeholder) and module.finder is self:
                del sys.modules[name]
                parent, _, last = name.rpartition(".")
                if parent in sys.modules:
                    vars(sys.modules[parent]).pop(last, None)


def found_by_others(finder: MetaPathFinder, name: str, path: Sequence[str] | None, target: ModuleType | None) -> Any:
    """Where a module is, as all finders but this one say; None if nowhere."""
    found = (other.find_spec(name, path, target) for other in sys.meta_path if other is not finder)
    return next(filter(None, found), None)


class Around(Loader):
    """What a module's own loader does, and something around it."""

    def __init__(self, own: Loader) -> None:
        self.own = own

    def __getattr__(self, name: str) -> Any:  # such as get_source
        return getattr(self.own, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As its own loader does."""
        return self.own.create_module(spec)


class _CoreLoader(Around):
    """Runs a module of the core among placeholders."""

    def __init__(self, own: Loader, finder: Finder) -> None:
        super().__init__(own)
        self.finder = finder

    def exec_module(self, module: ModuleType) -> None:
        with self.finder.among_placeholders():
            self.own.exec_module(module)


class _PlaceholderLoader(Loader):
    def __init__(self, finder: Finder) -> None:
        self.finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Placeholder(spec.name, self.finder)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Placeholder(ModuleType):
    """A package of which every name is there, and none is imported."""

    def __init__(self, name: str, finder: Finder) -> None:
        super().__init__(name)
        self.finder = finder

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _as_it_is if self.__name__ == self.finder.decorators else _OnUse(self, name)


class _OnUse:
    """A name of a placeholder, which is imported when it is called, asked for something or made a base."""

    def __init__(self, placeholder: _Placeholder, name: str) -> None:
        self._placeholder, self._name = placeholder, name

    def _real(self) -> Any:
        module = self._placeholder.__name__
        if not isinstance(sys.modules.get(module), _Placeholder):
            return getattr(importlib.import_module(module), self._name)
        with self._placeholder.finder.aside():
            return getattr(importlib.import_module(module), self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._real()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._real(), name)

    def __instancecheck__(self, instance: object) -> bool:
        loaded = sys.modules.get(self._placeholder.__name__)
        known = loaded is not None and not isinstance(loaded, _Placeholder)
        return known and isinstance(instance, getattr(loaded, self._name))

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._real(),)

    def __or__(self, other: object) -> Any:  # in annotations
        return Any

    __ror__ = __or__


def _as_it_is(function: Callable[..., Any] | None = None, *_args: Any, **_settings: Any) -> Any:
    return _as_it_is if function is None else function
