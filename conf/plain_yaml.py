"""Reads the YAML that people write, by the rules of YAML 1.2: what looks like a number is the number
that it looks like, and everything else is text.

PyYAML follows YAML 1.1, where `010` is 8, `1:30` is 90, `1_000` is 1000, `on`, `off`, `yes` and `no`
are booleans, `1e-3` is text and `2026-01-01` a date. Here they are 10, text, text, text, 0.001 and
text (YAML 1.2.2, section 10.3, the core schema). A key that is given twice is an error.
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


def load(text: str) -> Any:
    """Return the plain value that a YAML text holds; None for an empty one.

    Raises yaml.YAMLError for what is no YAML, for tags, and for a key that is given twice.
    """
    # A subclass of the safe loader: it makes plain values and nothing else.
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


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
    return int(text, base)


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
