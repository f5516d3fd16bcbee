"""Writes every lock of this repository anew: `python supply/lock.py`, or `make lock`.

    requirements.lock               all of Meadow, for Python 3.11 to 3.13 and every platform
    requirements-build.lock         pip, and what builds packages that come as source
    requirements-lowest-flower.txt  what differs with the lowest supported release of Flower
    azureml_jobs/environments/*/    the same for each image's Python and platform
    supply/tools/*.txt              the tools of `make audit`, each for an environment of its own

Versions stay as they are, and new dependencies get one; `--upgrade` takes the newest of all. `--check`
writes nothing and ends with 1 where a file would change. uv, which comes with Flower, resolves and
asks the index for the hashes of every file of a version: wheels of all platforms, and the source.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import uv

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from azureml_jobs.environments.bases import Image, images  # noqa: E402
from azureml_jobs.environments.image_packages import as_uv_says  # noqa: E402
from supply.pins import Pin, pins_of, read, text_of  # noqa: E402

LOCK: Final = ROOT / "requirements.lock"
BUILD: Final = ROOT / "requirements-build.lock"
LOWEST: Final = ROOT / "requirements-lowest-flower.txt"
OLDEST_PYTHON: Final = "3.11"
CUDA: Final = re.compile(r"torch|torchvision|triton|nvidia-.*|cuda-.*")
"""What an image with torch for a CPU takes from PyTorch's own index, or not at all."""
HEADING: Final = "Written by `make lock`."
LOWEST_HEADING: Final = (
    "The lowest release of Flower that Meadow supports, and what it needs in other versions than\n"
    "requirements.lock has. `make test-flower` lays these over the environment of the lock.\n"
)
TOOLS: Final = ROOT / "supply" / "tools"
ALONE: Final = ("docker-compose",)
"""Only a file of it is read, the schema of compose files: nothing that it would need to run."""
Files = dict[Path, str]


def written(upgrade: bool = False) -> Files:
    """Return the text of every lock."""
    before = [] if upgrade else read(LOCK)
    everything = compiled(
        [ROOT / "pyproject.toml"], "--extra", "dev", *_everywhere(), before=before
    )
    heading = f"{HEADING} Versions and hashes of all that Meadow's environment holds.\n"
    files = {LOCK: text_of(everything, heading)}
    build_before = read(BUILD) if BUILD.is_file() and not upgrade else []
    build = compiled(
        [ROOT / "supply" / "build.in"],
        *_everywhere(),
        before=build_before,
        within=everything,
    )
    build_heading = (
        f"{HEADING} What installs requirements.lock: pip, and the back ends of builds.\n"
    )
    files[BUILD] = text_of(build, build_heading)
    files[LOWEST] = text_of(_lowest(everything), f"{HEADING}\n{LOWEST_HEADING}")
    for image in images().values():
        files |= _of_image(image, everything, files[BUILD])
    return files | _tools(upgrade)


def _tools(upgrade: bool) -> Files:
    """Return the lock of each tool; a file's name is the package that it installs."""
    files = {}
    for file in sorted(TOOLS.glob("*.txt")):
        with tempfile.TemporaryDirectory() as folder:
            asked = Path(folder) / "tool.in"
            asked.write_text(f"{file.stem}\n")
            alone = ["--no-deps"] if file.stem in ALONE else []
            before = [] if upgrade else read(file)
            pins = compiled([asked], *alone, *_everywhere(), before=before)
        files[file] = text_of(pins, f"{HEADING} What installs {file.stem}.\n")
    return files


def _lowest(everything: list[Pin]) -> list[Pin]:
    """Return what differs from the lock under the lowest release of Flower."""
    (flower,) = [pin for pin in read(LOWEST) if pin.key == "flwr"]
    known = {pin.key: pin for pin in everything} | {pin.key: pin for pin in read(LOWEST)}
    found = compiled(
        [ROOT / "pyproject.toml"],
        *("--extra", "dev", *_everywhere()),
        before=list(known.values()),
        within=[replace(flower, hashes=())],
    )
    same = {(pin.key, pin.version) for pin in everything}
    return [pin for pin in found if (pin.key, pin.version) not in same]


def _of_image(image: Image, everything: list[Pin], build: str) -> Files:
    """Return an image's files: what it asks for at the lock's versions, all of it with hashes, the
    lock's versions for whatever is added, and what builds.
    """
    if image.torch is not None:
        everything = [pin for pin in everything if not CUDA.fullmatch(pin.key)]
    version = {pin.key: pin.version for pin in everything}
    asked = {}
    for file in sorted(image.folder.glob("*.txt")):
        if file.name != "constraints.txt":
            asked[file] = at_the_lock(file.read_text(), version)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / file.name for file in asked]
        for path, text in zip(paths, asked.values(), strict=True):
            path.write_text(text)
        platform = ("--python-platform", as_uv_says(image.base.platform))
        found = compiled(paths, "--python-version", image.base.python, *platform, within=everything)
    own = [pin for pin in found if CUDA.fullmatch(pin.key)]
    if image.cuda is None:
        found = [pin for pin in found if pin not in own]
    heading = f"{HEADING} For the Python and platform of this image's base.\n"
    known = {pin.key: pin for pin in [*everything, *(own if image.torch else [])]}
    plain = [replace(known[key], marker="", hashes=()) for key in sorted(known)]
    return {
        **asked,
        image.folder / "requirements.lock": text_of(found, heading),
        image.folder / "constraints.txt": text_of(plain),
        image.folder / "build.lock": build,
    }


def at_the_lock(text: str, version: dict[str, str]) -> str:
    """Return what an image asks for at the lock's versions.

    Hashes that `supply/pin.py` has filled in stay as long as their versions do.
    """
    pins = pins_of(text)
    if any(pin.hashes for pin in pins):
        if all(version.get(pin.key, pin.version) == pin.version for pin in pins):
            return text
        text = text_of([replace(pin, hashes=()) for pin in pins])
    return "".join(f"{_renewed(line, version)}\n" for line in text.splitlines())


def _renewed(line: str, version: dict[str, str]) -> str:
    """Return a line of an image's requirements at the lock's version; as it is where it has none."""
    if not line or line.startswith("#"):
        return line
    (pin,) = pins_of(line)
    return f"{pin.name}=={version.get(pin.key, pin.version)}"


def _everywhere() -> Sequence[str]:
    return ("--universal", "--python-version", OLDEST_PYTHON, "--fork-strategy", "fewest")


def compiled(
    sources: Sequence[Path],
    *arguments: str,
    before: Sequence[Pin] = (),
    within: Sequence[Pin] = (),
) -> list[Pin]:
    """Resolve requirements into pins with hashes.

    Versions of `before` are kept where they will do; those of `within` have to be.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.lock"
        constraints = Path(folder) / "within.txt"
        output.write_text(text_of(list(before)))
        constraints.write_text(text_of([replace(pin, hashes=(), marker="") for pin in within]))
        command = [
            *(uv.find_uv_bin(), "pip", "compile", "--quiet", "--no-header", "--no-annotate"),
            *("--generate-hashes", "--constraint", str(constraints)),
            *("--output-file", str(output), *arguments, *map(str, sources)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(map(str, sources))}:\n{done.stderr}")
        return read(output)


def changed(files: Files) -> Iterator[Path]:
    """Yield the files that are not as they would be written."""
    for path, text in files.items():
        if not path.is_file() or path.read_text() != text:
            yield path


def main() -> int:
    """Write the locks, or say which are not as they should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 = would change")
    asked = parser.parse_args()
    files = written(asked.upgrade)
    stale = list(changed(files))
    for path in stale:
        print(path.relative_to(ROOT), "would change" if asked.check else "written")
        if not asked.check:
            path.write_text(files[path])
    return 1 if asked.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
