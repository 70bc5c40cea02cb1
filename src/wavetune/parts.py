"""Parts: the small frozen values that a recipe is made of, how a recipe names them, and what they need of each other.

A part's configuration is its fields. A seam is a base class of parts, such as `Mixing`, of which a recipe chooses a
kind: `top_k` is the class `TopK` in the home of its seam, `theirs.mixing:Scores` a class of somebody else's package.
There is no list of kinds: they are what stands in the home. Nothing here imports torch.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from pathlib import PurePath
from typing import Any, ClassVar, TypeGuard, TypeVar, cast

from wavetune.errors import ConfigError, nearest
from wavetune.foreign import allows, imported
from wavetune.guarded import Checks, guard


@dataclass(frozen=True)
class Fact:
    """Something that a part may rely on and another may take away.

    Args:
        needed: completes "needs ...".
        cure: what to do to have it; by default, which kinds of the part that takes it away leave it.
        onwards: it is taken away only from parts that come after, in the order in which a message meets them.
    """

    needed: str
    cure: str = ""
    onwards: bool = False


@dataclass(frozen=True)
class Extent:
    """The clients and the model that settings have to fit; `width` is that of the model's narrowest LoRA target."""

    num_clients: int
    num_layers: int
    width: int


class Part:
    """Base of all parts: frozen dataclasses, and the seams that they are derived from, which have no fields.

    `needs` and `removes` hold for every configuration of a part; `needed` and `removed` may look at its fields. A field
    of a part can need or remove something where it differs from its default: `field(metadata={"needs": (FACT,)})`. Its
    metadata may also name the `message` that the parts in it act on; what they take away is then missing there alone.
    """

    kind: ClassVar[str] = ""  # how a recipe names it: by default the class's name, with underscores
    home: ClassVar[str] = ""  # of a seam: module or package of the kinds that are named without a path
    usual: ClassVar[str] = ""  # of a seam: the kind that is meant where none is named; empty: one must be
    elsewhere: ClassVar[dict[str, str]] = {}  # of a seam: what other tools' names, in one word, are here
    needs: ClassVar[tuple[Fact, ...]] = ()
    removes: ClassVar[tuple[Fact, ...]] = ()
    checks: ClassVar[Checks] = {}  # of a seam: of what other people's methods return

    def __init_subclass__(cls) -> None:
        if Part in cls.__bases__:
            cls.home = vars(cls).get("home", cls.__module__)
        if "kind" not in vars(cls):
            own = f"{cls.__module__}.".startswith(f"{cls.home}.")
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
            cls.kind = name if own else f"{cls.__module__}:{cls.__qualname__}"
        guard(cls, cls.kind)

    def needed(self) -> tuple[Fact, ...]:
        """What this part, as it is configured, cannot do without."""
        return self.needs

    def removed(self) -> tuple[Fact, ...]:
        """What other parts cannot rely on beside this part."""
        return self.removes

    def fits(self, path: str, extent: Extent) -> None:
        """Raise ConfigError, naming the field below `path`, where a setting does not fit the clients or the model."""


P = TypeVar("P", bound=Part)


def is_part(found: object) -> bool:
    """Whether this is a class of parts: a frozen dataclass derived from `Part`."""
    parameters = vars(found).get("__dataclass_params__") if isinstance(found, type) else None
    return parameters is not None and parameters.frozen and issubclass(cast("type", found), Part)


def seam_of(part: type) -> type[Part] | None:
    """The widest seam that a class is derived from; None where it is a part of its own, or no part."""
    return next((base for base in reversed(part.__mro__) if _is_seam(base)), None)


def _is_seam(base: type) -> TypeGuard[type[Part]]:
    return issubclass(base, Part) and base is not Part and not is_dataclass(base) and "kind" in vars(base)


def kinds(seam: type[P]) -> dict[str, type[P]]:
    """All parts of a seam that wavetune brings along, by their kinds: the classes in its home."""
    return {part.kind: part for part in _parts_of(seam.home) if issubclass(part, seam)}


@cache
def _parts_of(home: str) -> tuple[type[Any], ...]:
    """All classes of parts in a module, or in a package and its modules."""
    top = importlib.import_module(home)
    inside = (importlib.import_module(f"{home}.{m.name}") for m in pkgutil.iter_modules(getattr(top, "__path__", ())))
    found = (value for module in (top, *inside) for value in vars(module).values() if is_part(value))
    return tuple(part for part in found if not part.__name__.startswith("_"))


def _in_its_module(kind: str, seam: type[P]) -> type[P] | None:
    """The part of a kind where a module of the seam's package has its name: the others need not be imported."""
    top = importlib.import_module(seam.home)
    if kind not in (module.name for module in pkgutil.iter_modules(getattr(top, "__path__", ()))):
        return None
    found = vars(importlib.import_module(f"{seam.home}.{kind}")).values()
    return next((part for part in found if is_part(part) and issubclass(part, seam) and part.kind == kind), None)


def named(kind: str, seam: type[P], path: str, packages: Collection[str] | None = None) -> type[P]:
    """The class of parts that a recipe means by a kind at a path.

    Args:
        kind: `top_k`, or `theirs.mixing:Scores`.
        seam: what may stand at the path.
        path: of the kind in the recipe, for what is refused.
        packages: packages or modules of which a kind may be, beside wavetune's own; None: of anybody's.

    Raises: ConfigError.
    """
    if ":" not in kind:
        if (own := _in_its_module(kind, seam)) is not None:
            return own
        known = kinds(seam)
        if kind not in known:
            hint = nearest(kind, known) if known else "wavetune brings none"
            if called := seam.elsewhere.get(kind.lower().replace("_", "").replace("-", "")):
                hint = f"that is {called} here"
            elif not hint.endswith("?"):
                hint += f"{', or' if known else ';'} name one as package.module:Class"
            raise ConfigError(f"{path} is {kind!r}; {hint}")
        return known[kind]
    module, _, name = kind.rpartition(":")
    if module.endswith(".py"):
        raise ConfigError(
            f"{path} is {kind!r}; a recipe names a part by its module, so that it is found wherever it runs: write "
            f"{PurePath(module).stem}:{name}, with the folder of the file on PYTHONPATH"
        )
    if packages is not None and not allows(packages, module):
        raise ConfigError(
            f"the servers ask this device to run the code of {kind!r} at {path}; if it may, start it with --allow "
            f"{module.partition('.')[0]}"
        )
    found = imported(kind, path)
    if not is_part(found) or not issubclass(found, seam):
        raise ConfigError(
            f"{path} is {kind!r}, which is no frozen dataclass derived from {seam.__module__}.{seam.__name__}"
        )
    if found.kind != kind:
        raise ConfigError(f"{path} is {kind!r}, whose name is {found.kind!r}; write that")
    return found


def foreign_packages(value: Any) -> tuple[str, ...]:
    """Packages of other people's parts in a dataclass, each once."""
    found = dict[str, None]()
    if isinstance(value, Part) and ":" in value.kind and seam_of(type(value)) is not None:
        found[value.kind.partition(":")[0].partition(".")[0]] = None
    below = [getattr(value, f.name) for f in fields(value)] if is_dataclass(value) else value
    for one in cast("Sequence[Any]", below) if isinstance(below, list | tuple) else ():
        found |= dict.fromkeys(foreign_packages(one))
    return tuple(found)


@dataclass(frozen=True)
class Place:
    """A part, or a setting that differs from its default, with what it needs and removes there."""

    path: str
    value: Any
    needs: tuple[Fact, ...]
    removes: tuple[Fact, ...]
    message: str | None  # that it acts on; None: on no single one

    @property
    def shown(self) -> str:
        """Path and value in words."""
        if not isinstance(self.value, Part):
            listed = list(cast("Sequence[Any]", self.value)) if isinstance(self.value, tuple) else self.value
            return f"{self.path} {listed!r}"
        return self.path if seam_of(type(self.value)) is None else f"{self.path} {self.value.kind}"

    def misses(self, fact: Fact, other: Place, after: bool) -> bool:
        """Whether the fact is one that another place, before or after this, takes away from this."""
        same = self.message is None or other.message is None or self.message == other.message
        return same and fact in other.removes and (after or not fact.onwards)


def places(part: Part, path: str, message: str | None = None) -> Iterator[Place]:
    """A part and all settings and parts in it, in the order of their fields, that need or remove something."""
    yield Place(path, part, part.needed(), part.removed(), message)
    for each in fields(cast("Any", part)):
        value, where = getattr(part, each.name), f"{path}.{each.name}"
        of = each.metadata.get("message", message)
        facts = each.metadata.get("needs", ()), each.metadata.get("removes", ())
        if any(facts) and value != default_of(each):
            yield Place(where, value, *facts, of)
        for below, one in inner(value, where):
            yield from places(one, below, of)


def inner(value: Any, path: str) -> Iterator[tuple[str, Part]]:
    """The parts that a field holds: itself, those of a tuple, or none."""
    if isinstance(value, Part):
        yield path, value
    elif isinstance(value, tuple):
        for i, one in enumerate(cast("Sequence[Any]", value)):
            yield from inner(one, f"{path}.{i}" if len(value) > 1 else path)  # one part stands for a list of one


def default_of(each: Field[Any]) -> Any:
    """What a field holds where nothing is given; MISSING where something must be."""
    return each.default if each.default_factory is MISSING else each.default_factory()


def check(part: Part, path: str, extent: Extent) -> None:
    """Raise ConfigError where a part needs what another takes away, or a setting does not fit clients and model."""
    found = list(places(part, path))
    for i, place in enumerate(found):
        for fact in place.needs:
            for j, other in enumerate(found):
                if other is not place and place.misses(fact, other, after=j < i):
                    ways = ", or ".join(filter(None, (fact.cure or _leaving(fact, other), f"leave {place.path} out")))
                    raise ConfigError(f"{place.shown} needs {fact.needed}, which {other.shown} does not give; {ways}")
    for place in found:
        if isinstance(place.value, Part):
            place.value.fits(place.path, extent)


def _leaving(fact: Fact, other: Place) -> str:
    """Kinds of the other part that leave the fact, as something to do."""
    part = cast("type[Part]", type(other.value))
    seam = seam_of(part) if isinstance(other.value, Part) else None
    if seam is None:
        return f"leave {other.path} out"
    left = [kind for kind, one in sorted(kinds(seam).items()) if one is not part and fact not in _removed(one)]
    return f"set {other.path}.kind={' or '.join(filter(None, (', '.join(left[:-1]), left[-1])))}" if left else ""


def _removed(part: type[Part]) -> tuple[Fact, ...]:
    try:
        return part().removed()
    except (ConfigError, TypeError):  # it has no default configuration
        return part.removes
