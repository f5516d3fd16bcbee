"""A resumed run keeps its configuration: what may be told anew, and what is refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from conf.compose import compose
from conf.errors import ConfigError
from conf.resume import folder_of, resumed, stored
from conf.schema import Conf

STARTED_WITH = ["run.rounds=5", "trainer.lr=0.125", "tracking=off", "simulation=pool"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs" / "run-1"
    folder.mkdir(parents=True)
    conf = dataclasses.asdict(compose(STARTED_WITH))
    (folder / "config.yaml").write_text(yaml.safe_dump(conf))
    return folder


def resume(run: Path, *overrides: str) -> Conf:
    asked = [f"run.resume={run.name}", f"run.output={run.parent}", *overrides]
    fresh = compose(list(overrides))
    fresh.run = dataclasses.replace(fresh.run, resume=run.name, output=str(run.parent))
    return resumed(fresh, asked)


def test_a_run_is_found_by_its_id_and_by_its_path(run: Path) -> None:
    assert folder_of("run-1", str(run.parent)) == run
    assert folder_of(str(run)) == run
    with pytest.raises(ConfigError, match="MDW-183: There is no run 'run-2'"):
        folder_of("run-2", str(run.parent))


def test_what_is_stored_comes_back_as_it_was(run: Path) -> None:
    assert stored(run) == compose(STARTED_WITH)


def test_without_overrides_the_stored_configuration_counts(run: Path) -> None:
    conf = resume(run)
    before = compose(STARTED_WITH)
    assert (conf.run.rounds, conf.trainer, conf.tracking) == (5, before.trainer, before.tracking)
    assert conf.run.resume == "run-1"


def test_rounds_may_be_told_anew(run: Path) -> None:
    assert resume(run, "run.rounds=9").run.rounds == 9


def test_for_whom_a_run_waits_and_how_long_may_be_told_anew(run: Path) -> None:
    asked = ["run.quorum=1", "run.start_quorum=2", "run.start_timeout=9", "run.round_timeout=8"]
    conf = resume(run, *asked, "run.reconnect_patience=7", "run.grace=6")
    own = conf.run
    assert (own.quorum, own.start_quorum) == (1, 2)
    assert (own.start_timeout, own.round_timeout) == (9, 8)
    assert (own.reconnect_patience, own.grace) == (7, 6)
    assert resume(run, "run.quorum=1").run.start_quorum == stored(run).run.start_quorum


@pytest.mark.parametrize("override", ["trainer.lr=1", "strategy=fedprox", "run.seed=3", "data=iid"])
def test_what_would_make_it_another_run_is_refused_by_name(run: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=f"MDW-185: {override.split('=')[0]}") as caught:
        resume(run, override)
    assert "model.init=RUN_ID" in caught.value.hint


def test_a_key_that_only_begins_like_one_that_may_change_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError):
        resume(run, "run.rounds_more=3")


@pytest.mark.parametrize("text", ["a: [", "\x00"])
def test_a_file_that_is_not_yaml_is_named(run: Path, text: str) -> None:
    (run / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"MDW-106: .*config\.yaml can't be read"):
        stored(run)
