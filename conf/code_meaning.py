"""What a Python file means, as one line of JSON: the same for two files that do the same.

Left out are comments, the layout, line ends, docstrings and every other string that stands alone as
a statement, `pass`, and a text given as the keyword `help`, which only people read. What remains is
the syntax tree in a form of Meadow's own, because Python's own (`ast.dump`, `ast.unparse`, tokens)
differs from one version to the next: fields are sorted and the empty ones left out, numbers are
written in hexadecimal, and an f-string's pieces of text are merged. The order of statements counts,
so a moved function is a change.
"""

from __future__ import annotations

import ast
import json
from typing import Any


def meaning(source: bytes) -> str:
    """Return the meaning of a file's text as JSON in ASCII; raises SyntaxError or ValueError for
    none.
    """
    return meaning_of(ast.parse(source.replace(b"\r\n", b"\n")))


def meaning_of(tree: ast.AST) -> str:
    """Return the meaning of a syntax tree as JSON in ASCII."""
    return json.dumps(_node(tree), separators=(",", ":"))


def _node(node: ast.AST) -> Any:
    if isinstance(node, ast.Constant):
        return ["Constant", *_constant(node.value)]
    if isinstance(node, ast.JoinedStr):
        return _joined(node)
    form: list[Any] = [type(node).__name__]
    for name in sorted(node._fields):
        value = getattr(node, name, None)
        # What is absent is written in no version, so that a field that a newer Python adds
        # (`type_params` in 3.12) changes nothing for code that does not use it.
        plain = _field(value)
        if plain is not None and plain != []:
            form.append([name, plain])
    return form


def _field(value: Any) -> Any:
    if isinstance(value, ast.AST):
        return _node(value)
    if isinstance(value, list):
        return [_field(one) for one in value if not _without_effect(one) and not _is_help(one)]
    # A name, an operator's number, or None, which stands in a list for `**` in a dict and for a
    # keyword without a default.
    return value


def _without_effect(node: Any) -> bool:
    """Whether a statement does nothing: `pass`, or a string alone, a docstring first of all."""
    if isinstance(node, ast.Pass):
        return True
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return False
    return isinstance(node.value.value, str)


def _is_help(node: Any) -> bool:
    """Whether a call's argument is its help: the keyword `help` with a text."""
    if not isinstance(node, ast.keyword) or node.arg != "help":
        return False
    return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _constant(value: Any) -> list[str]:
    kind = type(value).__name__
    if isinstance(value, bytes):
        return [kind, value.hex()]
    if isinstance(value, float):
        return [kind, value.hex()]
    if isinstance(value, complex):
        return [kind, value.real.hex(), value.imag.hex()]
    if isinstance(value, int):
        # True and False are their own kind; decimal digits of a long one are refused by `str`.
        return [kind, hex(value)]
    if isinstance(value, str):
        return [kind, value]
    return [kind]  # None and the ellipsis


def _joined(node: ast.JoinedStr) -> Any:
    """Return an f-string as its pieces, neighbouring texts merged; one without a value is a plain
    text.
    """
    pieces: list[Any] = []
    for value in node.values:
        piece = _piece(value)
        if isinstance(piece, str) and pieces and isinstance(pieces[-1], str):
            pieces[-1] += piece
        elif piece != "":
            pieces.append(piece)
    if not pieces:
        return ["Constant", "str", ""]
    if len(pieces) == 1 and isinstance(pieces[0], str):
        return ["Constant", "str", pieces[0]]
    return ["JoinedStr", pieces]


def _piece(value: ast.expr) -> Any:
    """Return a text of an f-string, or a value in it: expression, conversion, format where there is
    one.
    """
    if isinstance(value, ast.Constant):
        return str(value.value)
    if not isinstance(value, ast.FormattedValue):
        return _node(value)
    empty = ["Constant", "str", ""]
    form = empty if value.format_spec is None else _node(value.format_spec)
    return ["FormattedValue", _node(value.value), value.conversion, form]
