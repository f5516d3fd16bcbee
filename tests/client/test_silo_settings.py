"""A process learns which silo it is from its own node, from the simulation that started it, or not at all."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from client.silo_settings import NODE_KEY, hand_over, silo_of
from conf.errors import ConfigError, SiloError
from conf.schema import DataConf, Silo
from conf.silos import silo_to_json

NORTH = Silo("north", 0, 2, DataConf(root="/data/north"))
SOUTH = Silo("south", 1, 2, threads=3)


def context(run_id: int = 7, **node_config: str | int) -> Context:
    return Context(
        run_id=run_id, node_id=1, node_config={**node_config}, state=RecordDict(), run_config={}
    )


@pytest.fixture(autouse=True)
def own_home_of_flower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))


def test_a_node_of_ours_is_told_by_its_own_configuration() -> None:
    assert silo_of(context(**{NODE_KEY: silo_to_json(SOUTH)})) == SOUTH


def test_a_worker_that_flower_started_finds_what_its_own_run_left() -> None:
    file = hand_over([NORTH, SOUTH], run_id=7)
    assert silo_of(context(7, **{"partition-id": 0, "num-partitions": 2})) == NORTH
    assert silo_of(context(8, **{"partition-id": 0, "num-partitions": 2})).name == "silo-1"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_what_another_user_left_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    file = hand_over([NORTH, SOUTH], run_id=7)
    monkeypatch.setattr("os.getuid", lambda: file.stat().st_uid + 1)
    with pytest.raises(SiloError, match="MDW-325"):
        silo_of(context(7, **{"partition-id": 0, "num-partitions": 2}))


def test_a_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meadow").mkdir()
    (tmp_path / "meadow").chmod(0o777)
    with pytest.raises(SiloError, match="MDW-325"):
        hand_over([NORTH, SOUTH], run_id=7)


def test_a_link_in_the_files_place_is_not_followed(tmp_path: Path) -> None:
    file = hand_over([NORTH, SOUTH], run_id=7)
    elsewhere = tmp_path / "elsewhere.json"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    with pytest.raises(SiloError, match="MDW-325"):
        silo_of(context(7, **{"partition-id": 0, "num-partitions": 2}))


def test_a_bare_partition_is_a_generated_silo() -> None:
    assert silo_of(context(**{"partition-id": 2, "num-partitions": 5})) == Silo("silo-3", 2, 5)


def test_a_node_without_a_name_or_partition_is_refused() -> None:
    with pytest.raises(SiloError, match="MDW-301"):
        silo_of(context())


def test_settings_that_are_no_silo_are_refused() -> None:
    with pytest.raises(ConfigError):
        silo_of(context(**{NODE_KEY: '{"name": "x", "surprise": 1}'}))


def test_settings_are_parsed_once_for_all_messages_of_a_silo() -> None:
    text = silo_to_json(Silo("north", 0, 2))
    first = silo_of(context(**{NODE_KEY: text}))
    assert silo_of(context(**{NODE_KEY: text})) is first
