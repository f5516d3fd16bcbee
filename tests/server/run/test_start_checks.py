"""A mistake that is cheap to see is told before torch is imported, in the words of the run itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conf.compose import compose
from conf.errors import ConfigError
from server.run.start_checks import check_start, first_weights_file

pytestmark = pytest.mark.usefixtures("undrawn")

HEAVY = ("torch", "flwr", "ray", "azure", "mlflow", "matplotlib", "sklearn", "numpy")
TOLD = """
import sys
from azureml_jobs.cli.main import main
status = main(sys.argv[2:])
loaded = set(sys.argv[1].split(",")) & set(sys.modules)
sys.exit(f"{sorted(loaded)} were imported" if loaded else status)
"""


def told(*words: str, folder: Path) -> tuple[int, str]:
    """Run a verb in a process of its own; return its status, and what it said on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", TOLD, ",".join(HEAVY), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.fixture
def taken(tmp_path: Path) -> Path:
    """A folder in which a run called first is stored, without a model."""
    folder = tmp_path / "outputs" / "first"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("{}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("simulate run.name=first", "MDW-181"),
        ("simulate task.name=my_task", "MDW-102"),
        ("simulate task=my_task", "MDW-102"),
        ("simulate model=nope", "MDW-102"),
        ("simulate model.name=nope", "MDW-102"),
        ("simulate strategy=nope", "MDW-102"),
        ("simulate run.resume=nope", "MDW-183"),
        ("simulate model.init=nope", "MDW-183"),
        ("simulate model.init=first", "MDW-184"),
        ("simulate model.init=nope.safetensors", "MDW-184"),
        ("simulate --multirun run.seed=0,1 task.name=my_task", "MDW-102"),
        ("evaluate run=nope", "MDW-183"),
        ("evaluate run=first", "MDW-184"),
        ("report run=nope", "MDW-183"),
        ("report run=nope --verify", "MDW-183"),
        ("download run=nope", "MDW-196"),
        ("wait run=nope", "MDW-196"),
        ("launch all backend=local run.resume=nope", "MDW-183"),
    ],
)
def test_a_cheap_mistake_is_told_before_anything_heavy_is_imported(
    taken: Path, words: str, code: str
) -> None:
    status, said = told(*words.split(), folder=taken)
    assert status == 2 and f"error {code}: " in said, said


@pytest.mark.parametrize("words", ["simulate run.name=first", "simulate task.name=my_task"])
def test_what_is_wrong_is_said_before_what_would_run(taken: Path, words: str) -> None:
    _, said = told(*words.split(), folder=taken)
    assert said.startswith("error ")


def test_a_sweep_may_use_a_name_that_another_folder_has(
    taken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(taken)
    status, said = told("simulate", "--multirun", "run.name=first", "task.name=my", folder=taken)
    assert status == 2 and "MDW-102" in said


def test_a_run_s_folder_that_is_empty_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "first").mkdir(parents=True)
    check_start(compose(["run.name=first"]))
    (tmp_path / "outputs" / "first" / "file").touch()
    with pytest.raises(ConfigError, match="MDW-181"):
        check_start(compose(["run.name=first"]))


def test_a_resumed_run_is_not_asked_for_its_first_weights(
    taken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(taken)
    check_start(compose(["run.resume=first"]))


def test_first_weights_are_those_of_a_finished_run_or_of_a_file(
    taken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(taken)
    assert first_weights_file(compose([])) is None
    model = Path("outputs/first/model/model.safetensors")
    model.parent.mkdir()
    model.touch()
    assert first_weights_file(compose(["model.init=first"])) == model
    assert first_weights_file(compose([f"model.init={model}"])) == model
