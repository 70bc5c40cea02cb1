"""YAML as JSON with comments: no aliases, no tags, and `no` is a text."""

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml


def read_yaml(text: str) -> Any:
    """What a text holds. Raises ValueError where it breaks the grammar."""
    try:
        return yaml.load(text, Loader=_Reader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def as_yaml(values: Mapping[str, Any]) -> str:
    """A recipe's values as YAML that reads to the same."""
    text = yaml.dump(json.loads(json.dumps(values)), Dumper=_Writer, sort_keys=False, allow_unicode=True, width=110)
    return (
        f"# a whole recipe; a file with base: {values.get('name', 'NAME')} may hold only what differs\n{text}".rstrip()
    )


class _Reader(yaml.SafeLoader):
    """YAML of plain values: every scalar that JSON would not know is a text; aliases and repeated names are refused."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node, which must be written where it stands."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases such as *{self.peek_event().anchor} are not read; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose names differ, as texts."""
        names = [str(self.construct_object(key, deep=True)) for key, _ in node.value]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise yaml.YAMLError(f"{twice} stands there twice{node.start_mark}")
        return dict(zip(names, (self.construct_object(value, deep=True) for _, value in node.value), strict=True))


class _Writer(yaml.SafeDumper):
    """Writes what `_Reader` reads to the same."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        """Write each value out."""
        return True


_KINDS = {
    "tag:yaml.org,2002:null": (r"~|null|", ["~", "n", ""]),
    "tag:yaml.org,2002:bool": (r"true|false", list("tf")),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+", list("-+0123456789")),
    "tag:yaml.org,2002:float": (r"[-+]?([0-9]+\.[0-9]*|\.?[0-9]+)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
}
for kind, (pattern, starts) in _KINDS.items():
    for one in (_Reader, _Writer):
        one.add_implicit_resolver(kind, re.compile(f"^(?:{pattern})$"), starts)
_Reader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
_Reader.add_constructor("tag:yaml.org,2002:float", lambda _, node: float(node.value))
_Writer.add_representer(float, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:float", repr(value)))
