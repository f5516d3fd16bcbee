"""How densely the product's code is written, beside its first tree and code bases that we admire.

    python benchmarks/density.py

Two tables: what a line holds, and how long and how deep functions are. They are a gate for nothing:
a number that must be met is met in bad ways. `make check` prints the first.
"""

from __future__ import annotations

import argparse
import ast
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ("conf", "strategies", "client", "server", "azureml_jobs")
LONG: Final = 100
"""Columns of a line that fits."""

# Of ccbe3df, and of torchtitan, pfl-research, nanochat, submitit, httpx, flwr and temporal beside it.
FIRST_TREE: Final = ("13.6", "32.6", "25.0", "0.1 %", "10.9 %")
ADMIRED: Final = ("0-7", "3-18", "2-11", "4-14 %", "0-4 %")
FIRST_SHAPE: Final = ("94/285/457", "6/17/51", "2.4 %", "0.9 %", "0.6 %")
ADMIRED_SHAPE: Final = ("97-461/424-1682", "6-19/22-64", "1-6 %", "1-12 %", "1-5 %")

Function = ast.FunctionDef | ast.AsyncFunctionDef
BRANCHES: Final = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.IfExp,
    ast.comprehension,
    ast.match_case,
)
BLOCKS: Final = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.Try, ast.Match)


@dataclass
class Counts:
    """What was counted in a number of files."""

    code_lines: int = 0
    lines: int = 0
    tuple_assignments: int = 0
    comprehensions: int = 0
    conditionals: int = 0
    own_line_comments: int = 0
    long_lines: int = 0
    file_lines: list[int] = field(default_factory=list)
    function_lines: list[int] = field(default_factory=list)
    complex_functions: int = 0
    functions_of_many_arguments: int = 0
    deep_functions: int = 0

    def add(self, source: str) -> None:
        """Count one file."""
        lines = source.splitlines()
        comments = [line for line in lines if line.lstrip().startswith("#")]
        self.lines += len(lines)
        self.file_lines.append(len(lines))
        self.own_line_comments += len(comments)
        self.code_lines += sum(bool(line.strip()) for line in lines) - len(comments)
        self.long_lines += sum(len(line) > LONG for line in lines)
        for node in ast.walk(ast.parse(source)):
            self._node(node)

    def _node(self, node: ast.AST) -> None:
        if _assigns_several(node):
            self.tuple_assignments += 1
        elif isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            self.comprehensions += 1
        elif isinstance(node, ast.IfExp):
            self.conditionals += 1
        elif isinstance(node, Function):
            self._function(node)

    def _function(self, function: Function) -> None:
        assert function.end_lineno is not None
        self.function_lines.append(function.end_lineno - function.lineno + 1)
        self.complex_functions += complexity(function) > 10
        self.functions_of_many_arguments += _arguments(function) > 5
        self.deep_functions += nesting(function) > 3


def _assigns_several(node: ast.AST) -> bool:
    """Whether a statement is `a, b = x, y`."""
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
        return False
    return any(isinstance(target, ast.Tuple) for target in node.targets)


def complexity(function: Function) -> int:
    """Return McCabe's number: branches, and the operators that join conditions, plus one."""
    inside = list(ast.walk(function))
    joined = sum(len(node.values) - 1 for node in inside if isinstance(node, ast.BoolOp))
    return 1 + joined + sum(isinstance(node, BRANCHES) for node in inside)


def nesting(node: ast.AST, depth: int = 0) -> int:
    """Return how many blocks lie inside each other at the deepest place of a function."""
    deepest = depth
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            continue
        deepest = max(deepest, nesting(child, depth + isinstance(child, BLOCKS)))
    return deepest


def _arguments(function: Function) -> int:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in named)


def sources() -> Iterator[str]:
    """Yield the text of each Python file of the product."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.read_text(encoding="utf-8")


def density(counts: Counts) -> list[tuple[str, str, str, str]]:
    """Return the rows of the first table: what, now, the first tree, the admired ones."""
    thousand = counts.code_lines / 1000
    now = (
        f"{counts.tuple_assignments / thousand:.1f}",
        f"{counts.comprehensions / thousand:.1f}",
        f"{counts.conditionals / thousand:.1f}",
        f"{100 * counts.own_line_comments / counts.lines:.1f} %",
        f"{100 * counts.long_lines / counts.lines:.1f} %",
    )
    names = (
        "tuple assignments per 1,000 lines",
        "comprehensions per 1,000 lines",
        "conditional expressions per 1,000 lines",
        "comments on a line of their own",
        f"lines of more than {LONG} columns",
    )
    return list(zip(names, now, FIRST_TREE, ADMIRED, strict=True))


def shape(counts: Counts) -> list[tuple[str, str, str, str]]:
    """Return the rows of the second table."""
    functions = len(counts.function_lines)
    now = (
        _spread(counts.file_lines),
        _spread(counts.function_lines),
        f"{100 * counts.complex_functions / functions:.1f} %",
        f"{100 * counts.functions_of_many_arguments / functions:.1f} %",
        f"{100 * counts.deep_functions / functions:.1f} %",
    )
    names = (
        "lines of a file: median/p90/most",
        "lines of a function: median/p90/most",
        "functions of complexity above 10",
        "functions of more than 5 arguments",
        "functions nested deeper than 3",
    )
    return list(zip(names, now, FIRST_SHAPE, ADMIRED_SHAPE, strict=True))


def _spread(values: list[int]) -> str:
    tenths = statistics.quantiles(values, n=10)
    return f"{statistics.median(values):.0f}/{tenths[-1]:.0f}/{max(values)}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="How densely the product's code is written.")
    parser.add_argument("--brief", action="store_true", help="the first table alone")
    brief = parser.parse_args().brief
    counts = Counts()
    for source in sources():
        counts.add(source)
    rows = density(counts)
    if not brief:
        rows += shape(counts)
    print(f"{counts.lines} lines in {len(counts.file_lines)} files; a gate for nothing")
    print(f"{'':42}{'now':>12}{'first tree':>14}{'admired':>18}")
    for name, now, first, admired in rows:
        print(f"{name:42}{now:>12}{first:>14}{admired:>18}")


if __name__ == "__main__":
    main()
