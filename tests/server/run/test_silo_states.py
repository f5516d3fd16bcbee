"""The file of a simulation's silos' states: what is written, what is read back, and when it is written anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from conf.errors import CheckpointError
from server.run import silo_states
from server.run.silo_states import SiloStates, StatesMark

SILOS = [f"silo-{number}" for number in range(1, 9)]


def after(round: int, size: int = 1000) -> RecordDict:
    """A silo's `Context.state` after a round, as the ClientApp's mod leaves it."""
    values = np.full(size, round, np.float32)
    return RecordDict(
        {f"1|run|{round}|c": ArrayRecord({"w": Array(values)}),
         f"1|run|{round}|n": MetricRecord({"rounds": round})}
    )  # fmt: skip


def plain(state: RecordDict) -> dict[str, object]:
    return {
        name: {key: array.numpy().tolist() for key, array in record.items()}
        if isinstance(record, ArrayRecord)
        else dict(record)
        for name, record in state.items()
    }


def trained(states: SiloStates, round: int, silos: list[str]) -> StatesMark:
    for silo in silos:
        states.in_memory[silo] = after(round)
    return states.keep(round, silos)


def restored(folder: Path, mark: StatesMark) -> SiloStates:
    states = SiloStates(folder, "run", mark)
    states.restore()
    return states


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_each_silo_gets_the_state_of_its_own_last_round(tmp_path: Path) -> None:
    states = SiloStates(tmp_path, "run")
    trained(states, 1, SILOS)
    trained(states, 2, SILOS[:2])
    mark = trained(states, 3, SILOS[1:3])
    found = restored(tmp_path, mark).in_memory
    rounds = dict(zip(SILOS, (2, 3, 3, 1, 1, 1, 1, 1), strict=True))
    assert {silo: plain(state) for silo, state in found.items()} == {
        silo: plain(after(round)) for silo, round in rounds.items()
    }


def test_a_round_writes_the_states_that_changed_and_no_other(tmp_path: Path) -> None:
    states = SiloStates(tmp_path, "run")
    first = trained(states, 1, SILOS)
    second = trained(states, 2, SILOS[:2])
    assert second.file == first.file
    assert second.bytes - first.bytes == first.bytes // 4


def test_a_silo_whose_update_did_not_count_is_not_written(tmp_path: Path) -> None:
    states = SiloStates(tmp_path, "run")
    first = trained(states, 1, SILOS)
    states.in_memory[SILOS[0]] = after(2)
    mark = states.keep(2, [])
    assert mark == first
    assert plain(restored(tmp_path, mark).in_memory[SILOS[0]]) == plain(after(1))


def test_without_states_there_is_no_file(tmp_path: Path) -> None:
    states = SiloStates(tmp_path, "run")
    assert states.keep(1, SILOS) == StatesMark()
    assert names(tmp_path) == []


def test_states_of_another_run_are_left_out(tmp_path: Path) -> None:
    states = SiloStates(tmp_path, "other")
    assert trained(states, 1, SILOS) == StatesMark()


def test_what_lies_behind_the_mark_is_cut_off(tmp_path: Path) -> None:
    states = SiloStates(tmp_path, "run")
    mark = trained(states, 1, SILOS)
    trained(states, 2, SILOS)
    again = restored(tmp_path, mark)
    assert (tmp_path / mark.file).stat().st_size == mark.bytes
    assert {plain(state)["1|run|1|n"]["rounds"] for state in again.in_memory.values()} == {1}  # type: ignore[index]


def test_a_round_that_is_closed_anew_takes_the_place_of_what_never_counted(tmp_path: Path) -> None:
    states = SiloStates(tmp_path, "run")
    mark = trained(states, 1, SILOS)
    trained(states, 2, SILOS)
    once_more = trained(restored(tmp_path, mark), 2, SILOS[:1])
    assert (tmp_path / mark.file).stat().st_size == once_more.bytes


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silo_states, "WASTE_BYTES", 0)


@pytest.mark.usefixtures("small_files")
def test_the_file_does_not_grow_with_the_rounds(tmp_path: Path) -> None:
    states = SiloStates(tmp_path, "run")
    first = trained(states, 1, SILOS).bytes
    for round in range(2, 60):
        mark = trained(states, round, [SILOS[round % 8], SILOS[(round + 3) % 8]])
        states.tidy()
        assert mark.bytes <= 2.5 * first
        assert len(names(tmp_path)) <= 2
        found = restored(tmp_path, mark).in_memory
        assert {name: plain(state) for name, state in found.items()} == {
            name: plain(state) for name, state in states.in_memory.items()
        }


@pytest.mark.usefixtures("small_files")
def test_the_checkpoint_before_a_new_file_still_finds_its_own(tmp_path: Path) -> None:
    states = SiloStates(tmp_path, "run")
    marks = [trained(states, 1, SILOS)]
    states.tidy()
    round = 1
    while marks[-1].file == marks[0].file:
        round += 1
        marks.append(trained(states, round, SILOS))
        states.tidy()
    found = restored(tmp_path, marks[-2]).in_memory
    assert plain(found[SILOS[0]]) == plain(after(round - 1))
    assert names(tmp_path) == [marks[0].file], "the file that never counted is removed"


@pytest.mark.usefixtures("small_files")
def test_once_no_checkpoint_marks_it_the_old_file_goes(tmp_path: Path) -> None:
    states = SiloStates(tmp_path, "run")
    for round in range(1, 4):
        trained(states, round, SILOS)
        states.tidy()
    restored_states = restored(tmp_path, states.mark)
    trained(restored_states, 4, SILOS[:1])
    restored_states.tidy()
    assert names(tmp_path) == [restored_states.mark.file]


@pytest.mark.parametrize(
    "raw",
    [
        {"file": "../../etc/passwd", "bytes": 1, "head": ""},
        {"file": "silo-states-000001.bin", "bytes": -1, "head": ""},
        {"file": "silo-states-000001.bin", "bytes": 1.5, "head": ""},
        {"file": 3, "bytes": 1, "head": ""},
        {"file": "", "bytes": 0},
    ],
)
def test_a_mark_that_is_none_is_refused(raw: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError, KeyError)):
        StatesMark.from_json(raw)


@pytest.mark.parametrize("place", [0, 20, 200, 4000, -1])
def test_any_flipped_bit_is_noticed(tmp_path: Path, place: int) -> None:
    mark = trained(SiloStates(tmp_path, "run"), 1, SILOS[:1])
    file = tmp_path / mark.file
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        restored(tmp_path, mark)
    assert caught.value.code in ("MDW-512", "MDW-519", "MDW-505")
    assert str(file) in caught.value.message


def test_entries_that_were_exchanged_for_others_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    mark = trained(SiloStates(tmp_path, "run"), 1, SILOS)
    other = SiloStates(tmp_path / "other", "run")
    for silo in SILOS:
        other.in_memory[silo] = after(1)
        other.in_memory[silo]["1|run|1|n"] = MetricRecord({"rounds": 9})
    (tmp_path / mark.file).write_bytes(
        (tmp_path / "other" / other.keep(1, SILOS).file).read_bytes()
    )
    with pytest.raises(CheckpointError, match="MDW-512"):
        restored(tmp_path, mark)
