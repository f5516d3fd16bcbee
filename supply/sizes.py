"""How large are the images? An estimate: `python supply/sizes.py`, in the project's environment.

Adds up the bytes that this environment holds of each package of an image's lock, and what the base's
registry publishes (compressed, so that the whole is larger on a disk). What is not installed here, such as
another CUDA's libraries or torch for a CPU, is named and not counted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from azureml_jobs.environments.bases import Image, images  # noqa: E402
from supply.pins import Pin, read  # noqa: E402


def installed() -> dict[str, int]:
    """Return the bytes of each package that is installed here."""
    found: dict[str, int] = {}
    for one in distributions():
        sizes = 0
        for file in one.files or []:
            with suppress(OSError):
                sizes += os.stat(str(one.locate_file(file))).st_size
        key = Pin(one.name, one.version).key
        # An environment over another may show a package twice: the larger is the one with files.
        found[key] = max(sizes, found.get(key, 0))
    return found


def estimate(image: Image, sizes: Mapping[str, int]) -> str:
    """Return a line on an image's size."""
    keys = [pin.key for pin in read(image.folder / "requirements.lock")]
    if image.cuda is None:
        keys += [pin.key for pin in read(image.folder / "torch-cpu.txt")]
    # The torch of this environment has CUDA, and the lock's version.
    other = image.cuda is None or image.torch is not None
    missing = [
        key for key in keys if key not in sizes or (other and key in ("torch", "torchvision"))
    ]
    known = sum(sizes[key] for key in keys if key not in missing) / 1e9
    base = (
        f"{image.base.size_mb / 1e3:.2f} GB of its base, compressed"
        if image.base.size_mb
        else ("its base, whose size nobody has asked for")
    )
    without = (
        f", without {len(missing)} that are not installed here ({missing[0]}…)" if missing else ""
    )
    return f"{image.name}: an estimate of {known:.2f} GB of packages{without}, and {base}"


def main() -> int:
    """Print a line for each image."""
    sizes = installed()
    for image in images().values():
        print(estimate(image, sizes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
