"""Reads the YAML that people write, by the rules of YAML 1.2: what looks like a number is the number
that it looks like, and everything else is text.

PyYAML follows YAML 1.1, where `010` is 8, `1:30` is 90, `1_000` is 1000, `on`, `off`, `yes` and `no`
are booleans, `1e-3` is text and `2026-01-01` a date. Here they are 10, text, text, text, 0.001 and
text (YAML 1.2.2, section 10.3, the core schema). A key that is given twice is an error, and so is
what would cost more than a file of settings may: a number beyond 64 bits, nesting without end, and
anchors whose repetitions (`&a`, `*a`) add up to more than `MOST_VALUES` values.
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

_FORMS: Final = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
"""What is not text: its form, and the characters that it may begin with."""


MOST_VALUES: Final = 100_000
"""Of one file, each repetition of an anchor counted; 1,000 silos with all their keys have fewer."""
_LARGEST: Final = 2**63


def load(text: str, name: str = "the text") -> Any:
    """Return the plain value that a YAML text holds; None for an empty one.

    `name` is what an error calls it. Raises yaml.YAMLError for what is no YAML, for tags, for a key
    that is given twice, and for what is larger or deeper than settings are.
    """
    # A subclass of the safe loader: it makes plain values and nothing else.
    loader = _Loader(text)
    loader.name = name
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    finally:
        loader.dispose()


def _check_size(root: yaml.Node) -> None:
    """Raise yaml.YAMLError where the value that a node means has more than `MOST_VALUES` parts.

    An anchor is one node however often it is meant, so the parts are counted without making them.
    """
    counted: dict[int, int] = {}

    def count(node: yaml.Node) -> int:
        known = counted.get(id(node))
        if known is not None:
            return known
        # An anchor within itself meets this, and would never end.
        counted[id(node)] = MOST_VALUES
        parts = sum(count(inner) for inner in _inside(node))
        counted[id(node)] = 1 + parts
        return counted[id(node)]

    if count(root) > MOST_VALUES:
        raise yaml.YAMLError(f"it means more than {MOST_VALUES:,} values")


def _inside(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return []


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the core schema of YAML 1.2."""

    # PyYAML keeps the forms in an attribute of the class; the parent's are those of 1.1.
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML declares it so

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping whose keys are all different."""
        seen = set()
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if name in seen:
                problem = f"the key {str(key.value)[:100]!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    # Before the digits are read: Python refuses thousands of them with an error of its own.
    number = int(text, base) if len(text) <= 70 else _LARGEST
    if not -_LARGEST <= number < _LARGEST:
        problem = f"the number {text[:40]} does not fit into 64 bits"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return number


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


for _kind, (_form, _first) in _FORMS.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(rf"^(?:{_form})$"), list(_first)
    )
# An empty value begins with nothing.
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^$"), [""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"])
_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)
