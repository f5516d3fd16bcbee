"""The locks hold versions and hashes and no addresses, agree with each other, and are what uv writes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import uv

from supply.lock import BUILD, LOCK, LOWEST, ROOT, Files, at_the_lock, changed, compiled
from supply.pins import Pin, read

FILES = [LOCK, BUILD, LOWEST, *sorted(ROOT.glob("azureml_jobs/environments/*/*.lock"))]
TOOLS = sorted((ROOT / "supply" / "tools").glob("*.txt"))
LINE = re.compile(r"#.*|[\w.-]+==[\w.+!-]+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
PYTHONS = ["3.11", "3.12", "3.13"]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("file", [*FILES, *TOOLS], ids=name)
def test_a_lock_holds_exact_versions_and_hashes_and_nothing_else(file: Path) -> None:
    assert [line for line in file.read_text().splitlines() if not LINE.fullmatch(line)] == []
    assert all(pin.hashes for pin in read(file))


def test_one_version_of_each_package_for_every_python() -> None:
    keys = [pin.key for pin in read(LOCK)]
    assert len(keys) == len(set(keys))


def test_what_builds_agrees_with_the_lock() -> None:
    whole = {pin.key: pin.version for pin in read(LOCK)}
    build = {pin.key: pin.version for pin in read(BUILD)}
    assert {"pip", "setuptools", "hatchling", "editables"} <= build.keys()
    assert {key: whole[key] for key in build.keys() & whole.keys()} == {
        key: build[key] for key in build.keys() & whole.keys()
    }


def test_the_lowest_flower_s_file_holds_what_differs_alone() -> None:
    whole = {pin.key: pin.version for pin in read(LOCK)}
    lowest = {pin.key: pin.version for pin in read(LOWEST)}
    assert lowest["flwr"].startswith("1.39.")
    assert [key for key, version in lowest.items() if whole.get(key) == version] == []


PLATFORMS = [
    "x86_64-manylinux_2_28",
    *(
        pytest.param(other, marks=pytest.mark.slow)
        for other in ("aarch64-manylinux_2_28", "aarch64-apple-darwin", "x86_64-pc-windows-msvc")
    ),
]
"""As uv names them. Meadow runs on Linux; for the others the lock is whole, and nothing was tried."""


def in_dry_run(lock: Path, python: str, platform: str) -> str:
    """Return what uv says of installing a lock with its hashes; nothing is installed.

    It chooses a file for each package. It does not compare hashes before it downloads: that they are
    those of every file is what the nightly test below asks the index.
    """
    command = [
        *(uv.find_uv_bin(), "pip", "install", "--dry-run", "--require-hashes", "--no-deps"),
        *("--python-version", python, "--python-platform", platform, "--color=never"),
        *("--target", str(lock.parent / "nowhere"), "--requirement", str(lock)),
    ]
    # torch's wheels ask for a macOS of 2023 or later; uv thinks of an older one.
    variables = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"}
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    if "Failed to fetch" in done.stderr:
        pytest.skip(f"no package index was reached: {done.stderr[-200:]}")
    return done.stderr


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_package_has_a_file_of_the_lock_for_each_python_and_platform(
    python: str, platform: str, tmp_path: Path
) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(LOCK.read_text())
    said = in_dry_run(lock, python, platform)
    assert "Would install" in said, said


def test_a_new_dependency_gets_a_version_and_the_others_keep_theirs(tmp_path: Path) -> None:
    asked = tmp_path / "asked.in"
    asked.write_text("six\n")
    try:
        (six,) = compiled([asked], before=[Pin("six", "1.16.0")])
        (held,) = compiled([asked], within=[Pin("six", "1.15.0")])
    except SystemExit as error:
        pytest.skip(f"no package index was reached: {str(error)[-200:]}")
    assert six.version == "1.16.0" and len(six.hashes) == 2
    assert held.version == "1.15.0"


def test_a_file_that_is_not_as_it_would_be_written_is_named(tmp_path: Path) -> None:
    same = tmp_path / "same"
    other = tmp_path / "other"
    missing = tmp_path / "missing"
    same.write_text("one\n")
    other.write_text("two\n")
    files: Files = {same: "one\n", other: "one\n", missing: "one\n"}
    assert list(changed(files)) == [other, missing]


def test_hashes_that_a_person_filled_in_stay_as_long_as_their_version_does() -> None:
    text = f"# Why.\ntorch==2.14.1 \\\n    --hash=sha256:{'a' * 64}\n"
    assert at_the_lock(text, {"torch": "2.14.1"}) == text
    assert at_the_lock(text, {"torch": "2.15.0"}) == "torch==2.15.0\n"
    assert at_the_lock("# Why.\ntorch==2.14.1\n", {"torch": "2.15.0"}) == "# Why.\ntorch==2.15.0\n"


def test_pip_refuses_what_has_another_hash(tmp_path: Path) -> None:
    """The sum of a file that is really there, changed by one digit."""
    wheel = tmp_path / "wheels" / "empty-1-py3-none-any.whl"
    wheel.parent.mkdir()
    _write_wheel(wheel)
    digest = subprocess.run(["sha256sum", wheel], capture_output=True, text=True, check=True)
    right = digest.stdout.split()[0]
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")
    for sum_, status in ((right, 0), (wrong, 1)):
        lock = tmp_path / "one.lock"
        lock.write_text(f"empty==1 --hash=sha256:{sum_}\n")
        command = [
            *(
                sys.executable,
                "-m",
                "pip",
                "install",
                "--require-hashes",
                "--no-deps",
                "--no-index",
            ),
            *("--find-links", str(wheel.parent), "--target", str(tmp_path / f"to-{status}")),
            *("--requirement", str(lock)),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode != 0) == (status != 0), done.stderr
        assert status == 0 or "DO NOT MATCH" in done.stderr


def _write_wheel(path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w") as file:
        info = "empty-1.dist-info"
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: empty\nVersion: 1\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


@pytest.mark.slow
def test_the_locks_are_what_would_be_written_today() -> None:
    """Hashes and versions anew from the index: a file that was added to a release shows up here."""
    done = subprocess.run(
        [sys.executable, "supply/lock.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    if "error sending request" in done.stderr:
        pytest.skip("no package index was reached")
    assert done.returncode == 0, done.stdout + done.stderr
