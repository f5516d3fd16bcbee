"""Packages that code from outside the tree needs, as it declares them: `requires = ("pandas>=2",)`.

Written at the top of a module, or in a class, of the target's file or of a neighbour, in the form
of pip. They are read without running anything, looked for before the code is imported, and built
into the images of jobs. An installed package brings its own.

    MDW-178 a package is missing here    MDW-348 a package is missing in a job
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement

from conf.errors import ConfigError, SiloError
from conf.targets import known
from conf.targets.known import Known
from conf.targets.sources import FOUNDATIONS, Sources

NAME: Final = "requires"


def declared(sources: Sources) -> list[str]:
    """Return what the files declare, sorted; raises ConfigError MDW-178 for what is none."""
    found: set[str] = set()
    for source in sources.files.values():
        for node in _assignments(source.syntax):
            found.update(_checked(text, sources) for text in _texts(node, sources))
    return sorted(found)


def needed_in_an_image(entries: Iterable[Known]) -> list[str]:
    """Return the requirements of a job's list, in the form of pip: declared, or installed here."""
    found: set[str] = set()
    for entry in entries:
        sources = known.sources_of(entry.target, f"{entry.group}.target")
        if sources.place.installed:
            found.update(_distributions(sources.place.module.split(".")[0]))
        else:
            found.update(declared(sources))
    return sorted(found)


def unmet(requirements: Iterable[str]) -> list[str]:
    """Return those that this environment does not meet, each with what is here instead."""
    found = []
    for text in requirements:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        try:
            here = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            found.append(f"{text} (not installed)")
            continue
        if not wanted.specifier.contains(here, prereleases=True):
            found.append(f"{text} (here: {here})")
    return found


def check(entry: Known, sources: Sources) -> None:
    """Raise ConfigError MDW-178 where this environment lacks what an entry's code needs."""
    lacking = unmet(declared(sources))
    if lacking:
        what = f"{entry.group} {entry.name} needs {', '.join(lacking)}."
        raise ConfigError("MDW-178", what, "Install it here: pip install with the same words.")


def check_job(who: str) -> None:
    """Raise SiloError MDW-348 where a job's environment lacks what the code of its list needs."""
    for entry in known.given():
        sources = known.sources_of(entry.target, f"{entry.group}.target")
        lacking = unmet(declared(sources))
        if lacking:
            raise SiloError(
                "MDW-348",
                f"{who}: the {entry.group} {entry.name} needs {', '.join(lacking)}.",
                "Install it in the job's environment; an image that Meadow builds has it.",
            )


def _assignments(syntax: ast.Module) -> Iterator[ast.expr]:
    """Yield the values of `requires` at the top of a module and of its classes."""
    bodies = [syntax.body, *(node.body for node in syntax.body if isinstance(node, ast.ClassDef))]
    for body in bodies:
        for node in body:
            targets: list[ast.expr] = []
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AnnAssign) and node.value is not None:
                targets = [node.target]
            if any(isinstance(one, ast.Name) and one.id == NAME for one in targets):
                assert isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
                yield node.value


def _texts(node: ast.expr, sources: Sources) -> list[str]:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        value = None
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, tuple | list) and all(isinstance(text, str) for text in texts):
        return list(texts)
    raise _wrong(ast.unparse(node), sources)


def _checked(text: str, sources: Sources) -> str:
    try:
        wanted = Requirement(text)
    except InvalidRequirement:
        raise _wrong(text, sources) from None
    # An address would let a file decide from where an image takes code.
    if wanted.url is not None:
        raise _wrong(text, sources)
    return text


def _wrong(text: str, sources: Sources) -> ConfigError:
    what = f"{sources.place.file.name}: requires = {text[:80]} does not name packages."
    return ConfigError("MDW-178", what, "Write names with versions: requires = ('pandas>=2',).")


def _distributions(package: str) -> list[str]:
    if package in FOUNDATIONS:
        return []
    names = metadata.packages_distributions().get(package, [])
    return [f"{name}=={metadata.version(name)}" for name in sorted(set(names))]
