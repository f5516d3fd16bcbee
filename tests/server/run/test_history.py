"""A history is appended once a round, cut back to what counts, and refused where it is not what was marked."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from azureml_jobs.storage.base import LeaseLost
from azureml_jobs.storage.folder_store import FolderStore
from azureml_jobs.storage.prefix import PrefixStore
from conf.errors import CheckpointError
from server.run.history import FILE, SEGMENTS, History, Mark, read_history
from server.run.result import RoundRecord
from tests.azureml_jobs.storage.watching import Clock, taken_over
from tests.server.sample_results import sample

ROUNDS = sample(3, 5).records


def written(folder: Path, rounds: int = 5, store: FolderStore | None = None) -> list[Mark]:
    """Write a history and return its marks, the one before the first round included."""
    folder.mkdir(parents=True, exist_ok=True)
    history = History(folder / FILE, Mark(), store)
    return [Mark(), *(history.append(record) for record in ROUNDS[:rounds])]


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    mark = written(tmp_path)[-1]
    assert list(read_history(tmp_path)) == ROUNDS
    assert mark.lines == 5 and mark.bytes == (tmp_path / FILE).stat().st_size
    again = History(tmp_path / FILE, mark)
    assert (again.mark, again.last) == (mark, ROUNDS[-1])


def test_a_round_costs_one_line_at_any_length(tmp_path: Path) -> None:
    marks = written(tmp_path)
    sizes = [b.bytes - a.bytes for a, b in pairwise(marks)]
    assert max(sizes) < 1.1 * min(sizes)


def test_what_is_not_a_number_is_null(tmp_path: Path) -> None:
    record = RoundRecord(1, ["a"], aggregate={"loss": math.nan, "x": math.inf})
    History(tmp_path / FILE, Mark()).append(record)
    assert next(read_history(tmp_path)).aggregate == {"loss": None, "x": None}


def test_a_line_behind_the_checkpoint_is_cut_off_and_the_round_written_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    marks = written(tmp_path)
    history = History(tmp_path / FILE, marks[3])
    assert "after round 3 never counted" in caplog.text
    assert list(read_history(tmp_path)) == ROUNDS[:3]
    assert history.append(ROUNDS[3]) == marks[4]


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    marks = written(tmp_path)
    path = tmp_path / FILE
    whole = path.read_bytes()
    for torn in (marks[4].bytes + 1, marks[5].bytes - 1):
        path.write_bytes(whole[:torn])
        assert list(read_history(tmp_path)) == ROUNDS[:4], "a reader leaves it out"
        History(path, marks[4])
        assert path.stat().st_size == marks[4].bytes


def deleted(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def shorter(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def of_another_run(path: Path) -> None:
    path.unlink()
    history = History(path, Mark())
    for record in sample(2, 9).records:
        history.append(record)


@pytest.mark.parametrize("damage", [deleted, cut, shorter, of_another_run])
def test_a_history_that_is_not_the_marked_one_is_refused_and_left_alone(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    mark = written(tmp_path)[-1]
    path = tmp_path / FILE
    damage(path)
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(CheckpointError, match="MDW-507"):
        History(path, mark)
    with pytest.raises(CheckpointError, match="MDW-507"):
        list(read_history(tmp_path, mark))
    assert (path.read_bytes() if path.exists() else None) == before


def test_any_flipped_bit_before_the_last_line_is_found_and_its_line_named(tmp_path: Path) -> None:
    marks = written(tmp_path)
    path = tmp_path / FILE
    whole = path.read_bytes()
    for at in range(0, marks[4].bytes, 37):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"MDW-50[578].*history\.jsonl"):
            History(path, marks[-1])


def test_lines_that_were_moved_or_added_are_found(tmp_path: Path) -> None:
    mark = written(tmp_path)[-1]
    path = tmp_path / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    for order in ([0, 2, 1, 3, 4], [0, 1, 1, 2, 3, 4], [0, 2, 3, 4]):
        path.write_bytes(b"".join(lines[place] for place in order))
        with pytest.raises(CheckpointError, match="MDW-508"):
            list(read_history(tmp_path))
        with pytest.raises(CheckpointError, match=r"MDW-50[78]"):
            History(path, mark)


def test_another_version_is_refused(tmp_path: Path) -> None:
    mark = written(tmp_path, 1)[-1]
    path = tmp_path / FILE
    line = json.loads(path.read_bytes()) | {"version": 99}
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(CheckpointError, match=r"MDW-505.*version 99.*version 1\."):
        list(read_history(tmp_path))
    assert mark.lines == 1


def test_a_line_without_keys_is_refused(tmp_path: Path) -> None:
    for line in ("{}", '{"version":1}', '{"version":1,"previous":"0","extra":2}', "[]", "no"):
        (tmp_path / FILE).write_text(line + "\n")
        with pytest.raises(CheckpointError, match=r"MDW-508.*line 1"):
            list(read_history(tmp_path))


def test_a_full_disk_leaves_the_history_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = written(tmp_path, 2)
    history = History(tmp_path / FILE, marks[2])
    real = os.write

    def short(handle: int, data: bytes) -> int:
        if len(data) <= 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data[:20])

    monkeypatch.setattr(os, "write", short)
    with pytest.raises(CheckpointError, match="MDW-513"):
        history.append(ROUNDS[2])
    monkeypatch.undo()
    assert (history.mark, (tmp_path / FILE).stat().st_size) == (marks[2], marks[2].bytes)
    assert history.append(ROUNDS[2]).lines == 3
    assert list(read_history(tmp_path)) == ROUNDS[:3]


def test_on_another_machine_it_is_made_again_from_the_store(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    marks = written(tmp_path / "first", 4, store)
    (tmp_path / "second").mkdir()
    history = History(tmp_path / "second" / FILE, marks[3], store)
    assert list(read_history(tmp_path / "second")) == ROUNDS[:3], "round 4 never counted"
    assert history.append(ROUNDS[3]) == marks[4]
    assert len(store.list(SEGMENTS)) == 4
    assert (tmp_path / "second" / FILE).read_bytes() == (tmp_path / "first" / FILE).read_bytes()


def test_a_store_that_holds_too_little_is_refused(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    mark = written(tmp_path / "first", 4, store)[-1]
    store.delete(store.list(SEGMENTS)[1])
    (tmp_path / "second").mkdir()
    with pytest.raises(CheckpointError, match="MDW-507"):
        History(tmp_path / "second" / FILE, mark, store)


def test_an_orchestrator_that_was_replaced_changes_no_line_in_the_store(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store", lambda: 0.0)
    now = FolderStore(tmp_path / "store", Clock(step=1))
    former = PrefixStore(store, "runs/a/", store.acquire("orchestrator", "former", 20))
    (tmp_path / "former").mkdir()
    deposed = History(tmp_path / "former" / FILE, Mark(), former)
    live = PrefixStore(now, "runs/a/", taken_over(now, "orchestrator", "successor", 20))
    (tmp_path / "live").mkdir()
    History(tmp_path / "live" / FILE, Mark(), live).append(ROUNDS[0])
    before = {name: store.read(name) for name in store.list("runs/")}
    other = RoundRecord(1, ["x"])
    with pytest.raises(LeaseLost):
        deposed.append(other)
    assert {name: store.read(name) for name in store.list("runs/")} == before


def test_what_the_silos_said_and_how_often_they_failed_is_known_after_a_resume(
    tmp_path: Path,
) -> None:
    history = History(tmp_path / FILE, Mark())
    history.append(RoundRecord(1, ["a", "b"], software={"a": {"torch": "1"}, "b": {"torch": "1"}}))
    history.append(RoundRecord(2, ["a", "b"], failed={"b": "gone"}, software={"a": {"torch": "2"}}))
    again = History(tmp_path / FILE, history.mark)
    for opened in (history, again):
        assert opened.software == {"a": {"torch": "2"}, "b": {"torch": "1"}}
        assert opened.failed == {"b": 1}
