"""A silo's state in storage of its own: what is kept, what is refused, and who may write."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from azureml_jobs.storage.base import LeaseLost
from azureml_jobs.storage.folder_store import FolderStore
from client.node import state_store
from client.node.state_store import KEPT_RUNS, AnotherProcess, SiloStateStore
from conf.errors import CheckpointError

Make = Callable[..., SiloStateStore]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes a process's view of the silo's storage; all are closed with the test."""
    monkeypatch.setattr(state_store, "LEASE_SECONDS", 0.4)
    monkeypatch.setattr(state_store, "RENEW_SECONDS", 0.1)
    made: list[SiloStateStore] = []

    def make(silo: str = "north") -> SiloStateStore:
        made.append(SiloStateStore(lambda: FolderStore(tmp_path), silo))
        return made[-1]

    yield make
    for one in made:
        one.close()


def archive(*rounds: int, run: str = "run") -> RecordDict:
    """A silo's `Context.state` that holds the states after some rounds."""
    records = RecordDict()
    for round in rounds:
        values = np.full(1000, round, np.float32)
        records[f"1|{run}|{round}|c"] = ArrayRecord({"w": Array(values)})
        records[f"1|{run}|{round}|n"] = MetricRecord({"rounds": round})
    return records


def files(folder: Path, run: str = "run") -> list[str]:
    return sorted(path.name for path in (folder / "north/runs" / run).glob("*"))


def test_what_was_kept_comes_back_in_another_process(make: Make, tmp_path: Path) -> None:
    first = make()
    first.keep("run", 1, archive(1))
    first.keep("run", 2, archive(1, 2))
    first.close()
    found = make().restore("run")
    assert list(found) == list(archive(1, 2))
    assert found["1|run|2|c"]["w"].numpy().tolist() == [2.0] * 1000  # type: ignore[index,union-attr]


def kept_rounds(folder: Path) -> list[int]:
    return [int(name[6:12]) for name in files(folder)]


def test_of_a_run_the_last_two_states_are_kept_and_the_one_before(
    make: Make, tmp_path: Path
) -> None:
    one = make()
    one.keep("run", 1, archive(1))
    one.keep("run", 2, archive(1, 2))
    one.keep("run", 5, archive(2, 5))
    assert kept_rounds(tmp_path) == [1, 2, 5]
    # Round 5 did not count.
    one.keep("run", 7, archive(2, 7))
    assert kept_rounds(tmp_path) == [1, 2, 7]
    one.keep("run", 8, archive(7, 8))
    assert kept_rounds(tmp_path) == [2, 7, 8]
    # The server went back: what came after is of no run any more.
    one.keep("run", 4, archive(2, 4))
    assert kept_rounds(tmp_path) == [2, 4]


def test_a_state_that_the_server_goes_back_to_is_known_to_be_there(make: Make) -> None:
    one = make()
    for number in (1, 2, 3, 4):
        one.keep("run", number, archive(*range(max(number - 1, 1), number + 1)))
    assert one.has("run", 2) and one.has("run", 4)
    assert not one.has("run", 1) and not one.has("other", 1)
    assert "1|run|2|c" in one.restore("run")


def test_files_are_the_owner_s_alone(make: Make, tmp_path: Path) -> None:
    make().keep("run", 1, archive(1))
    (file,) = (tmp_path / "north/runs/run").iterdir()
    assert file.stat().st_mode & 0o077 == 0


def test_a_silo_without_a_state_asks_nothing_of_its_storage() -> None:
    def unreachable() -> FolderStore:
        raise AssertionError("the store was opened")

    SiloStateStore(unreachable, "north").keep("run", 1, RecordDict())


def test_silos_and_runs_do_not_mix(make: Make) -> None:
    north, south = make("north"), make("south")
    north.keep("run", 1, archive(1))
    assert not make("south").restore("run")
    assert not make("north").restore("other")
    south.keep("run", 1, archive(1))


@pytest.mark.parametrize("run", ["../other", "/etc", "a/../../b", "a|b", "", ".hidden", "x" * 600])
def test_a_run_s_name_leads_nowhere_else(make: Make, tmp_path: Path, run: str) -> None:
    one = make()
    with pytest.raises(CheckpointError, match="MDW-511"):
        one.restore(run)
    if "|" not in run:
        with pytest.raises(CheckpointError, match="MDW-511"):
            one.keep(run, 1, archive(1, run=run))
    assert list(tmp_path.rglob("*.state")) == []


# ---- damage


@pytest.mark.parametrize("place", [0, 20, 200, 4000, -1])
def test_a_flipped_bit_is_refused_and_the_file_named(
    make: Make, tmp_path: Path, place: int
) -> None:
    first = make()
    first.keep("run", 1, archive(1))
    first.close()
    (file,) = (tmp_path / "north/runs/run").iterdir()
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"MDW-(519|505)") as caught:
        make().restore("run")
    assert "north/runs/run/round-000001.state" in caught.value.message


def test_a_file_put_in_another_one_s_place_is_refused(make: Make, tmp_path: Path) -> None:
    first = make()
    first.keep("run", 1, archive(1))
    first.keep("run", 2, archive(1, 2))
    first.close()
    folder = tmp_path / "north/runs/run"
    (folder / "round-000002.state").write_bytes((folder / "round-000001.state").read_bytes())
    with pytest.raises(CheckpointError, match="MDW-519"):
        make().restore("run")


def test_a_damaged_list_of_runs_is_said(make: Make, tmp_path: Path) -> None:
    one = make()
    one.keep("run", 1, archive(1))
    (tmp_path / "north/runs.json").write_text("{]")
    with pytest.raises(CheckpointError, match=r"MDW-519.*runs\.json"):
        one.keep("other", 1, archive(1, run="other"))


# ---- runs


def test_the_states_of_the_oldest_run_go(make: Make, tmp_path: Path) -> None:
    one = make()
    names = [f"run-{number}" for number in range(KEPT_RUNS + 2)]
    for name in names:
        one.keep(name, 1, archive(1, run=name))
    assert (
        sorted(
            path.name for path in (tmp_path / "north/runs").iterdir() if files(tmp_path, path.name)
        )
        == names[2:]
    )
    noted = json.loads((tmp_path / "north/runs.json").read_text())["runs"]
    assert [name for name, _ in noted] == names[2:]


def test_a_run_that_is_continued_is_not_an_old_one(make: Make, tmp_path: Path) -> None:
    one = make()
    for number in range(KEPT_RUNS):
        one.keep(f"run-{number}", 1, archive(1, run=f"run-{number}"))
    one.keep("run-0", 2, archive(1, 2, run="run-0"))
    assert len(files(tmp_path, "run-0")) == 2


# ---- the lease


def test_a_second_process_of_the_silo_ends_before_it_trains(make: Make) -> None:
    make().keep("run", 1, archive(1))
    second = make()
    with pytest.raises(AnotherProcess, match="MDW-343") as caught:
        second.restore("run")
    assert "north" in caught.value.message and str(os.getpid()) in caught.value.message
    with pytest.raises(AnotherProcess, match="MDW-343"):
        second.keep("other", 1, archive(1, run="other"))


def test_the_lease_is_held_for_as_long_as_the_process_lives(make: Make, tmp_path: Path) -> None:
    one = make()
    one.keep("run", 1, archive(1))
    lease = tmp_path / "north/writer.lease"
    for _ in range(500):
        if json.loads(lease.read_text())["beat"] >= 4:
            break
        one._closed.wait(0.01)
    else:
        raise AssertionError("it was not renewed")
    one.keep("run", 2, archive(1, 2))


def killed(one: SiloStateStore) -> None:
    """Let a process hold its lease and renew it no more, as one that was killed."""
    one._closed.set()
    assert one._thread is not None
    one._thread.join()


def test_the_lease_of_a_killed_process_is_taken_over(make: Make) -> None:
    first = make()
    first.keep("run", 1, archive(1))
    killed(first)
    second = make()
    assert list(second.restore("run")) == list(archive(1))
    second.keep("run", 2, archive(1, 2))


def test_a_process_that_was_frozen_until_another_took_over_writes_nothing(
    make: Make, tmp_path: Path
) -> None:
    first = make()
    first.keep("run", 1, archive(1))
    killed(first)
    make().keep("run", 2, archive(1, 2))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.state")}
    with pytest.raises(LeaseLost, match="MDW-516"):
        first.keep("run", 2, changed())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.state")} == before


def changed() -> RecordDict:
    records = archive(1, 2)
    records["1|run|2|n"] = MetricRecord({"rounds": 99})
    return records


def test_a_process_that_ends_well_leaves_the_lease_at_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make()
    first.keep("run", 1, archive(1))
    first.close()
    monkeypatch.setattr(state_store, "RENEW_SECONDS", 0.0)
    monkeypatch.setattr(state_store, "LEASE_SECONDS", 0.0)
    assert list(make().restore("run")) == list(archive(1))
