"""A process resolves names in its own list, by name and digest, and nowhere else."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from conf.errors import ConfigError, SiloError
from conf.targets import known
from conf.targets.known import Known, find, loaded, sources_of, to_text

OTHER = "0" * 64


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Known:
    """Give this process a list of one, as its job would."""
    (tmp_path / "wine.py").write_text("class Wine: pass\n")
    target = f"{tmp_path}/wine.py:Wine"
    made = Known("task", "wine.Wine", sources_of(target, "task.target").digest, target)
    monkeypatch.setenv(known.VARIABLE, to_text([made]))
    return made


def test_what_a_job_was_submitted_with_is_found_by_name_and_digest(entry: Known) -> None:
    assert find("task", entry.name, entry.code) == entry
    assert loaded("task", entry.name, entry.code).__name__ == "Wine"


@pytest.mark.parametrize(
    ("group", "name", "code"),
    [
        ("model", "wine.Wine", "entry"),
        ("task", "wine.Other", "entry"),
        ("task", "os.system", OTHER),
        ("task", "/tmp/evil.py:Evil", OTHER),
        ("task", "../wine.Wine", OTHER),
        ("task", "x" * 5000, OTHER),
    ],
)
def test_any_other_name_is_refused_and_nothing_is_imported(
    entry: Known, group: str, name: str, code: str
) -> None:
    before = set(sys.modules)
    with pytest.raises(SiloError, match="MDW-346") as caught:
        loaded(group, name, entry.code if code == "entry" else code)
    assert set(sys.modules) == before and len(str(caught.value)) < 500


def test_another_digest_is_refused_with_both(entry: Known) -> None:
    with pytest.raises(SiloError, match=f"MDW-347.*{OTHER[:12]}.*{entry.code[:12]}"):
        loaded("task", entry.name, OTHER)


def test_a_file_that_changed_since_it_was_listed_is_not_run(entry: Known, tmp_path: Path) -> None:
    (tmp_path / "wine.py").write_text("class Wine: changed = True\n")
    with pytest.raises(SiloError, match="MDW-347"):
        loaded("task", entry.name, entry.code)


def test_a_list_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(known.VARIABLE, "[1]")
    with pytest.raises(ConfigError, match="MDW-170"):
        find("task", "wine.Wine", OTHER)


def test_entry_points_are_names_of_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    points = metadata.EntryPoints(
        [metadata.EntryPoint("adam", "flwr.serverapp.strategy:FedAdam", "meadow.strategies")]
    )
    monkeypatch.setattr(metadata, "entry_points", lambda group: points.select(group=group))
    known._entry_points.cache_clear()
    try:
        assert known.point_names("strategy") == ["flwr.adam"]
        assert known.points_named("strategy", "adam") == known.points_named("strategy", "flwr.adam")
        code = sources_of("flwr.serverapp.strategy.FedAdam", "strategy").digest
        assert loaded("strategy", "flwr.adam", code).__name__ == "FedAdam"
        with pytest.raises(SiloError, match="MDW-347"):
            find("strategy", "flwr.adam", OTHER)
    finally:
        known._entry_points.cache_clear()
