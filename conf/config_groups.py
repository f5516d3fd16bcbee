"""The groups of configuration files and their options: the folders under conf/ and their files."""

from __future__ import annotations

from importlib.resources import files


def groups() -> list[str]:
    """Return the groups of configuration files: the folders under conf/ that hold any."""
    folders = [f for f in files("conf").iterdir() if f.is_dir()]
    named = [f.name for f in folders if not f.name.startswith(("_", "."))]
    return sorted(name for name in named if options(name))


def options(group: str) -> list[str]:
    """Return the names of a group's files, without `.yaml`."""
    names = [f.name for f in files("conf").joinpath(group).iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))
