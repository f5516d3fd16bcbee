"""What a job needs is copied into its folder, and found there alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from azureml_jobs.backends import outside_code
from conf.compose import compose
from conf.errors import ConfigError
from conf.schema import Conf
from conf.targets import known
from conf.targets.bundle import bundled
from conf.targets.known import loaded, to_text


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    (folder / "deep").mkdir(parents=True)
    (folder / "wine.py").write_text("import columns, deep.inner\nclass Wine: x = columns.X\n")
    (folder / "columns.py").write_text("X = 1\n")
    (folder / "deep/inner.py").write_text("")
    (folder / "secret.txt").write_text("secret")
    (folder / "other.py").write_text("")
    return folder


def composed(folder: Path) -> Conf:
    return compose([f"task.target={folder}/wine.py:Wine", "model=mlp"])


def test_a_job_gets_what_is_imported_and_nothing_else(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = composed(mine)
    job = tmp_path / "job"
    (entry,) = bundled(conf, job, job)
    files = {file.relative_to(job).as_posix() for file in job.rglob("*") if file.is_file()}
    place = f"outside/{conf.task.code[:16]}"
    assert files == {f"{place}/wine.py", f"{place}/columns.py", f"{place}/deep/inner.py"}
    assert entry.target == f"{place}/wine.py:Wine" and str(tmp_path) not in to_text([entry])
    # The job works in its folder, and has its list from its environment.
    monkeypatch.setattr(known, "_own", {})
    monkeypatch.setenv(known.VARIABLE, to_text([entry]))
    monkeypatch.chdir(job)
    (mine / "wine.py").unlink()
    assert loaded("task", "wine.Wine", conf.task.code).x == 1


def test_code_that_changed_since_it_was_composed_is_not_sent(mine: Path, tmp_path: Path) -> None:
    conf = composed(mine)
    (mine / "columns.py").write_text("X = 2\n")
    with pytest.raises(ConfigError, match="MDW-177"):
        bundled(conf, tmp_path / "job", tmp_path / "job")


def test_an_installed_package_is_named_and_not_copied(tmp_path: Path) -> None:
    conf = compose(["strategy.target=flwr.serverapp.strategy.FedAdam"])
    (entry,) = bundled(conf, tmp_path, tmp_path)
    assert entry.target == "flwr.serverapp.strategy.FedAdam" and not list(tmp_path.iterdir())


def test_a_local_job_that_is_started_again_keeps_the_code_it_has(
    mine: Path, tmp_path: Path
) -> None:
    conf = composed(mine)
    job = tmp_path / "job"
    text = outside_code.given(conf, job)
    (mine / "columns.py").write_text("X = 2\n")
    assert outside_code.given(conf, job) == text
    assert outside_code.missing(conf, job) == []
    assert outside_code.missing(composed(mine), job) == ["task.target"]


def test_a_local_job_without_such_code_gets_an_empty_list(tmp_path: Path) -> None:
    assert outside_code.given(compose([]), tmp_path / "job") == "[]"
