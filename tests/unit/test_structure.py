"""How the source is built, read from its syntax trees: what would let a new part be more than one file."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from hypothesis import settings

from wavetune.parts import Part

ROOT = Path(__file__).resolve().parents[2]
# What is left, and why. A line that is no longer true fails a test: take it out.
PARTS_ASKED_FOR_THEIR_CLASS = set[str]()
IMPORT_CIRCLES = list[set[str]]()
FIELDS_COPIED = set[str]()


@cache
def trees() -> dict[str, ast.Module]:
    """The syntax tree of each file, by its path in src."""
    paths = (path for path in sorted((ROOT / "src").rglob("*.py")) if not path.stem.endswith("_pb2"))
    return {path.relative_to(ROOT / "src").as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


@cache
def nodes() -> dict[str, list[ast.AST]]:
    """All nodes of each file's tree, by its path in src."""
    return {name: [*ast.walk(tree)] for name, tree in trees().items()}


@cache
def modules() -> dict[str, str]:
    return {name.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): name for name in trees()}


@cache
def definitions() -> dict[str, tuple[str, ast.ClassDef]]:
    classes = ((name, node) for name, found in nodes().items() for node in found if isinstance(node, ast.ClassDef))
    return {node.name: (name, node) for name, node in classes}


def named(node: ast.AST) -> set[str]:
    """Names and attributes in an expression."""
    found = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    return found | {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}


@cache
def is_part(name: str) -> bool:
    bases = {base for one in definitions().get(name, (None, None))[1:] if one for base in map(_last, one.bases)}
    return Part.__name__ in bases or any(is_part(base) for base in bases - {name})


def _last(base: ast.expr) -> str:
    return base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""


def asked_for_their_class() -> Iterator[tuple[str, int]]:
    """Where a part of another file is told apart by `isinstance`, or by `match`."""
    lists = {  # such as ROBUST = (Median, MultiKrum)
        _last(node.targets[0]): named(node.value)
        for tree in trees().values()
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)
    }
    for name, found in nodes().items():
        for node in found:
            if isinstance(node, ast.Call) and _last(node.func) in ("isinstance", "issubclass"):
                classes = named(node.args[1])
            elif isinstance(node, ast.MatchClass):
                classes = named(node.cls)
            else:
                continue
            classes |= {inside for one in classes for inside in lists.get(one, ())}
            if any(is_part(one) and definitions()[one][0] != name for one in classes):
                yield name, node.lineno


def imports() -> dict[str, set[str]]:
    """Modules of wavetune that each imports, wherever in it."""
    found = dict[str, set[str]]()
    for module, name in modules().items():
        for node in nodes()[name]:
            wanted = list[str]()
            if isinstance(node, ast.ImportFrom) and node.module:
                wanted = [f"{node.module}.{a.name}" for a in node.names]
                wanted = [one if one in modules() else node.module for one in wanted]
            elif isinstance(node, ast.Import):
                wanted = [a.name for a in node.names]
            found.setdefault(module, set()).update(one for one in wanted if one in modules() and one != module)
    return found


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def copies(node: ast.AST) -> bool:
    """Whether all fields of something are put together by name: {f.name: getattr(x, f.name) for f in fields(...)}."""
    if isinstance(node, ast.keyword):  # Cls(**x.__dict__)
        return node.arg is None and "__dict__" in named(node.value)
    if not isinstance(node, ast.DictComp) or ast.unparse(node.key) != "f.name":
        return False
    some_alone = any("name" in named(test) for test in node.generators[0].ifs)
    return ast.unparse(node.value).startswith("getattr(") and not some_alone


def test_no_part_is_asked_for_its_class_outside_its_own_file():
    assert {name for name, _ in asked_for_their_class()} == PARTS_ASKED_FOR_THEIR_CLASS, [*asked_for_their_class()]


def test_no_module_imports_itself_on_a_detour():
    graph = imports()
    for known in IMPORT_CIRCLES:
        assert circle({one: graph[one] & known for one in known}), f"no circle any more: {known}"
    left = {
        module: {one for one in wanted if not any({module, one} <= known for known in IMPORT_CIRCLES)}
        for module, wanted in graph.items()
    }
    assert circle(left) == []


def test_no_private_name_is_imported_from_another_file():
    found = [
        f"{name}:{node.lineno} {a.name}"
        for name, inside in nodes().items()
        for node in inside
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wavetune")
        for a in node.names
        if a.name.startswith("_") and not a.name.startswith("__")
    ]
    assert found == []


def test_no_object_is_made_by_copying_the_fields_of_another():
    assert {name for name, inside in nodes().items() if any(map(copies, inside))} == FIELDS_COPIED


def test_examples_are_the_same_in_every_run_unless_others_are_asked_for(request):
    """One profile for all of them: that which another conftest.py loads would be everyone's."""
    asked = request.config.getoption("--hypothesis-profile")
    assert settings.get_current_profile_name() == (asked or "repeatable")
    assert asked or settings().derandomize
