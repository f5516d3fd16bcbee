"""Packages that outside code needs: read without running it, and missed before it is imported."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from azureml_jobs.environments.bases import FOLDER
from azureml_jobs.jobs.snapshot import image_with
from conf.compose import compose
from conf.errors import ConfigError, SiloError
from conf.targets import known
from conf.targets.bundle import entries_of
from conf.targets.known import Known, sources_of, to_text
from conf.targets.requirements import check_job, declared, needed_in_an_image, unmet

NUMPY = metadata.version("numpy")


def written(folder: Path, text: str) -> str:
    (folder / "wine.py").write_text(f"{text}\nclass Wine:\n    requires = 'torch'\n")
    return f"{folder}/wine.py:Wine"


def of(folder: Path, text: str) -> list[str]:
    return declared(sources_of(written(folder, text), "task.target"))


def test_what_a_module_its_classes_and_its_neighbours_declare_is_read_without_running(
    tmp_path: Path,
) -> None:
    (tmp_path / "columns.py").write_text("requires: list[str] = ['scipy']\n")
    text = "raise SystemExit\nimport columns\nrequires = ('pandas>=2', 'polars[all]')"
    assert of(tmp_path, text) == ["pandas>=2", "polars[all]", "scipy", "torch"]


@pytest.mark.parametrize(
    "value",
    ["make()", "3", "(1,)", "('pandas ~~ 2',)", "'evil @ https://example.org/evil.whl'", "'../x'"],
)
def test_what_is_no_list_of_packages_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match="MDW-178"):
        of(tmp_path, f"requires = {value}")


def test_what_is_not_here_is_said_with_what_is() -> None:
    assert unmet(["numpy", f"numpy=={NUMPY}", "no-such; python_version < '3'"]) == []
    assert unmet(["numpy<1", "no-such-package>=2"]) == [
        f"numpy<1 (here: {NUMPY})",
        "no-such-package>=2 (not installed)",
    ]


def test_a_missing_package_is_told_before_the_code_is_imported(tmp_path: Path) -> None:
    target = written(tmp_path, "requires = 'no-such-package>=2'\nimport no_such_package")
    conf = compose([f"task.target={target}"])
    with pytest.raises(ConfigError, match=r"MDW-178.*no-such-package>=2 \(not installed\)"):
        known.loaded("task", conf.task.name, conf.task.code)


def test_a_job_says_at_its_start_what_its_environment_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = written(tmp_path, "requires = 'no-such-package'")
    entry = Known("task", "wine.Wine", sources_of(target, "task.target").digest, target)
    check_job("north")
    monkeypatch.setenv(known.VARIABLE, to_text([entry]))
    with pytest.raises(SiloError, match=r"MDW-348: north: .*no-such-package"):
        check_job("north")


def test_an_image_is_built_with_what_is_declared_and_installed_packages_as_they_are(
    tmp_path: Path,
) -> None:
    target = written(tmp_path, "requires = 'no-such-package>=2'")
    conf = compose([f"task.target={target}", "model.target=networkx.generators.classic.path_graph"])
    more = needed_in_an_image(entries_of(conf))
    assert more == [f"networkx=={metadata.version('networkx')}", "no-such-package>=2", "torch"]
    image = image_with(FOLDER / "silo", more, tmp_path / "snapshot")
    lines = (image / "requirements.txt").read_text().splitlines()
    assert lines[-3:] == more and (image / "Dockerfile").is_file()
    adam = compose(["strategy.target=flwr.serverapp.strategy.FedAdam"])
    assert needed_in_an_image(entries_of(adam)) == []
