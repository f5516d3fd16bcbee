"""Would a base image's Python find what an image asks for? Answered without installing anything.

`resolve` lets uv, which comes with Flower, choose versions for that Python and that platform from
the index that it is set up with; of each package it reads the metadata alone.

    outcome = resolve(folder, base)
    if outcome.refused:
        print(outcome.log)      # what an image's build would end with
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from azureml_jobs.environments.bases import Base, from_source

SECONDS: Final = 120.0
"""How long the index is given. Usually two seconds are enough, and ten the first time."""
_NO_SOLUTION: Final = 1
"""uv's exit status where the packages can't be had together; 2 is any other failure."""
_OFFLINE: Final = "network was disabled"
_PLATFORM: Final = re.compile(r"(manylinux_\d+_\d+)_(\w+)")


@dataclass(frozen=True)
class Resolution:
    """What a resolver found: the versions, or why there are none."""

    versions: dict[str, str] = field(default_factory=dict)
    """By name, of everything that would be installed; empty unless all was found."""
    log: str = ""
    """What the resolver said."""
    refused: bool = False
    """Whether the packages can't be had for this Python; False also where nobody could be asked."""

    @property
    def asked(self) -> bool:
        """Return whether an index was reached at all."""
        return self.refused or bool(self.versions)


def resolve(folder: Path, base: Base, variables: Mapping[str, str] | None = None) -> Resolution:
    """Resolve what a Docker context installs: its *.txt files, with constraints.txt as constraints.

    `variables` are the environment in which the index is asked; None: this process's own.
    """
    constraints = folder / "constraints.txt"
    asked = [file for file in sorted(folder.glob("*.txt")) if file != constraints]
    return resolved(asked, base, [constraints] if constraints.is_file() else [], variables)


def resolved(
    asked: Sequence[Path],
    base: Base,
    constraints: Sequence[Path] = (),
    variables: Mapping[str, str] | None = None,
) -> Resolution:
    """Resolve requirement files for a base's Python and platform, wheels alone.

    Packages that have no wheels anywhere (`from_source`) may come as source.
    """
    command = [
        *(_uv(), "pip", "compile", "--no-header", "--no-annotate", "--quiet", "--color=never"),
        *("--python-version", base.python, "--python-platform", as_uv_says(base.platform)),
        *("--only-binary", ":all:"),
        *(word for name in from_source() for word in ("--no-binary", name)),
        *(word for file in constraints for word in ("--constraint", str(file))),
        *map(str, asked),
    ]
    try:
        # The folder may be another's: no project file or settings beside it count.
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=os.path.sep,
            timeout=SECONDS,
            env=variables,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Resolution(log=f"{type(error).__name__}: {error}")
    if done.returncode == 0:
        return Resolution(_versions(done.stdout))
    refused = done.returncode == _NO_SOLUTION and _OFFLINE not in done.stderr
    return Resolution(log=done.stderr.strip(), refused=refused)


def _versions(text: str) -> dict[str, str]:
    lines = (line.partition(";")[0].strip() for line in text.splitlines())
    return dict(line.split("==", 1) for line in lines if "==" in line)


def as_uv_says(platform: str) -> str:
    """Return a tag of wheels as uv names platforms: x86_64-manylinux_2_28."""
    match = _PLATFORM.fullmatch(platform)
    assert match, platform
    return f"{match[2]}-{match[1]}"


def _uv() -> str:
    import uv

    return uv.find_uv_bin()
