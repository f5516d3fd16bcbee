"""What a job is sent with: a copy of the packages, and the few files that only this job gets."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from conf.code_digest import FRONT, PACKAGES, release_digest, tree_digest
from conf.errors import AzureError
from conf.targets.bundle import FOLDER as OUTSIDE

ROOT: Final = Path(__file__).resolve().parents[2]
DEFAULTS: Final = "generated.yaml"
"""The one file of conf/federation that is code; the others describe somebody's federation."""
_NOT_CODE: Final = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def snapshot(folder: Path, own: Mapping[str, bytes], root: Path = ROOT) -> str:
    """Copy the code and a job's own files into an empty folder; return the release's digest.

    The rehearsal's cloud, experiments and federation files of this tree are not copied. Raises
    AzureError MDW-812 where the copy is not this tree, because a silo might refuse every run.
    """
    for package in PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=_NOT_CODE)
    shutil.copyfile(root / FRONT, folder / FRONT)
    for name in ("azureml_jobs/rehearsal", "conf/experiment"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for file in (folder / "conf" / "federation").glob("*.yaml"):
        if file.name != DEFAULTS:
            file.unlink()
    for name, content in own.items():
        (folder / name).write_bytes(content)
    if tree_digest(folder) != tree_digest(root):
        raise AzureError("MDW-812", "The code changed while it was copied.", "Launch again.")
    return release_digest(folder)


def image_with(image: Path, requirements: Sequence[str], folder: Path) -> Path:
    """Return the folder of an image that has these packages too, made inside a snapshot."""
    context = folder / OUTSIDE / "environment"
    shutil.copytree(image, context)
    with (context / "requirements.txt").open("a") as file:
        file.write("".join(f"{line}\n" for line in ["", *requirements]))
    return context
