"""`import meadow`: quick, light, whole; and the command and the import notice another's modules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import meadow
from azureml_jobs import shadowed

ROOT = Path(__file__).parents[1]


def python(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, which comes first on its path, as in a notebook or a script."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("name", meadow.__all__)
def test_each_public_name_is_there_with_a_docstring(name: str) -> None:
    value = getattr(meadow, name)
    assert value.__doc__ and name in dir(meadow)


def test_a_name_that_is_none_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Tusk'"):
        meadow.Tusk  # noqa: B018


def test_import_meadow_imports_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import meadow;"
        "heavy = {'torch', 'numpy', 'flwr', 'hydra', 'conf', 'client'} & set(sys.modules);"
        "print(sorted(heavy), len(set(sys.modules) - before) < 40)"
    )
    assert python(ROOT, "-c", code).stdout == "[] True\n"


@pytest.mark.parametrize("name", ["server", "client", "conf", "strategies"])
def test_a_file_of_yours_in_the_way_is_told_in_one_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text("raise SystemExit(77)\n")
    done = python(tmp_path, "-c", "import meadow")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "MDW-179" in last and f"{tmp_path}/{name}.py" in last and "Rename it" in last
    job = python(tmp_path, "-m", "azureml_jobs.cli.main", "version")
    assert job.returncode == 2 and len(job.stderr.splitlines()) == 1
    assert "MDW-179" in job.stderr and f"{tmp_path}/{name}.py" in job.stderr


def test_another_distribution_s_meadow_is_told_by_the_command(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "meadow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit(77)\n")
    job = python(package.parent, "-m", "azureml_jobs.cli.main", "version")
    assert job.returncode == 2 and "MDW-179" in job.stderr
    assert "Uninstall the distribution" in job.stderr


def test_a_package_whose_files_another_removed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadowed, "NAMES", ("meadow_is_not_this",))
    with pytest.raises(ImportError, match=r"MDW-179.*Install Meadow again"):
        shadowed.check()


def test_a_server_py_beside_ones_own_task_does_no_harm_to_the_command(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text("raise SystemExit(77)\n")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "azureml_jobs.cli.main", "version"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
