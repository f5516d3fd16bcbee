"""A ledger goes on after any crash, and no line of it can change, vanish or move unseen."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azureml_jobs.storage.folder_store import FolderStore
from conf.errors import CheckpointError
from server.round.judgement import Admitted, Rejected
from server.run.chain import NOTHING
from server.run.ledger import Ledger, stored_lines
from server.run.verdict import Anchor, verify, verify_file


def clock() -> float:
    return 1_700_000_000.0


def opened(folder: Path, store: FolderStore | None = None) -> Ledger:
    return Ledger(folder / "ledger.jsonl", "run-1", store, clock)


def a_run(ledger: Ledger, rounds: int = 2) -> list[Anchor]:
    ledger.run_started(
        federation="f", code="c0", tree="t0", config="c1", silos=["north", "south"], resumed=False
    )
    anchors = []
    for round in range(1, rounds + 1):
        ledger.update(round, "north", Admitted(10, 0.5), "ab")
        ledger.update(round, "south", Rejected("MDW-614", "south: not finite."), "cd")
        anchors.append(ledger.round_closed(round, "ef", ["north"], privacy={"north": 1.5}))
    return [*anchors, ledger.run_finished("finished", "ef")]


def lines_of(folder: Path) -> list[bytes]:
    return (folder / "ledger.jsonl").read_bytes().splitlines()


LINES: list[bytes] = []
ANCHOR = Anchor("the tag", 0, NOTHING)


@pytest.fixture(scope="module", autouse=True)
def _history(tmp_path_factory: pytest.TempPathFactory) -> None:
    global ANCHOR
    folder = tmp_path_factory.mktemp("history")
    with opened(folder) as ledger:
        last = a_run(ledger, rounds=3)[-1]
    LINES[:] = lines_of(folder)
    ANCHOR = Anchor("the tag", last.lines, last.head)


def test_a_run_s_lines_say_who_what_and_why(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        a_run(ledger, rounds=1)
    started, admitted, refused, closed, finished = [json.loads(line) for line in lines_of(tmp_path)]
    assert (started["event"], started["silos"], started["previous"]) == (
        "run started",
        ["north", "south"],
        NOTHING,
    )
    assert (admitted["event"], admitted["silo"], admitted["update"], admitted["norm"]) == (
        "update admitted", "north", "ab", 0.5,
    )  # fmt: skip
    assert (refused["event"], refused["code"], refused["reason"]) == (
        "update refused", "MDW-614", "south: not finite.",
    )  # fmt: skip
    assert (closed["event"], closed["model"], closed["privacy"]) == (
        "round closed",
        "ef",
        {"north": 1.5},
    )
    assert (finished["event"], finished["line"]) == ("run finished", 5)


def test_a_norm_that_json_has_no_word_for_is_null_in_the_ledger(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.update(1, "south", Admitted(10, float("inf")), "ab")
        ledger.seal()
    (huge,) = [json.loads(line) for line in lines_of(tmp_path)]
    assert huge["norm"] is None


def test_an_honest_ledger_is_verified_with_an_anchor_and_unconfirmed_without() -> None:
    assert verify(LINES).status == "unconfirmed"
    assert "nothing but the folder itself" in str(verify(LINES))
    verdict = verify(LINES, [ANCHOR])
    assert (verdict.status, verdict.confirmed, verdict.anchored) == (
        "verified",
        ["the tag"],
        len(LINES),
    )
    assert verify([], [ANCHOR]).status == "broken" and verify([]).status == "unconfirmed"


def test_what_follows_the_last_anchor_is_said_to_be_loose(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        first, *_ = a_run(ledger)
    verdict = verify(lines_of(tmp_path), [first])
    assert verdict.status == "verified" and "the last 4 of them are not confirmed yet" in str(
        verdict
    )


@settings(deadline=None)
@given(st.data())
def test_a_changed_line_is_found(data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(LINES) - 1))
    place = data.draw(st.integers(0, len(LINES[number]) - 1))
    byte = data.draw(st.integers(1, 255))
    changed = bytearray(LINES[number])
    changed[place] ^= byte
    assert (
        verify([*LINES[:number], bytes(changed), *LINES[number + 1 :]], [ANCHOR]).status == "broken"
    )


@settings(deadline=None)
@given(st.data())
def test_a_removed_line_is_found(data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(LINES) - 1))
    verdict = verify(LINES[:number] + LINES[number + 1 :], [ANCHOR])
    assert verdict.status == "broken"
    if number < len(LINES) - 1:
        assert f"lines {number + 1} to {number + 1} were removed" in verdict.faults[0]


@settings(deadline=None)
@given(st.data())
def test_another_order_is_found(data: st.DataObject) -> None:
    moved = data.draw(st.permutations(LINES).filter(lambda p: p != LINES))
    verdict = verify(moved, [ANCHOR])
    assert verdict.status == "broken" and any(
        "out of order" in f or "removed" in f for f in verdict.faults
    )


@settings(deadline=None)
@given(st.integers(0, 10))
def test_a_cut_end_is_found_by_an_anchor(kept: int) -> None:
    verdict = verify(LINES[:kept], [ANCHOR])
    assert verdict.faults == [f"cut after line {kept}: the tag has seen {len(LINES)}"]
    assert verify(LINES[:kept]).status == "unconfirmed"


@settings(deadline=None)
@given(st.data())
def test_an_inserted_line_is_found(data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(LINES)))
    inserted = data.draw(st.sampled_from([*LINES, b"", b"{}", b"x"]))
    assert verify([*LINES[:number], inserted, *LINES[number:]]).status == "broken"


def test_a_change_in_the_middle_is_named() -> None:
    changed = LINES[2].replace(b"MDW-614", b"MDW-999")
    assert changed != LINES[2]
    assert verify([*LINES[:2], changed, *LINES[3:]]).faults == [
        "line 3 was changed: line 4 holds another digest of it"
    ]


def test_a_whole_chain_written_anew_is_found_only_by_an_anchor(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        for line in LINES:
            facts = json.loads(line)
            ledger.append(facts.pop("event"), **{"silo": "forged"})
        ledger.seal()
    forged = lines_of(tmp_path)
    assert verify(forged).status == "unconfirmed"
    assert verify(forged, [ANCHOR]).faults == [
        f"line {len(LINES)} is not the one that the tag has seen"
    ]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_no_lines_make_verify_raise(lines: list[bytes]) -> None:
    assert verify(lines).status == ("broken" if lines else "unconfirmed")


def test_deeply_nested_json_is_a_fault_and_no_crash() -> None:
    assert verify([b"[" * 100_000]).status == "broken"


def test_an_anchor_is_one_word_of_text() -> None:
    text = str(ANCHOR)
    assert Anchor.parse("the tag", text) == ANCHOR
    assert Anchor.parse("the tag", f"round 3 {text}\n") == ANCHOR
    for bad in ("", "3", "3:xyz", f"-1:{NOTHING}", f"x{text}"):
        with pytest.raises(CheckpointError, match="MDW-522"):
            Anchor.parse("a tag", bad)


def test_a_reopened_ledger_goes_on(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.append("one")
        ledger.seal()
    with opened(tmp_path) as ledger:
        ledger.append("two")
        assert ledger.seal().lines == 2
    assert verify(lines_of(tmp_path)).faults == []


@settings(deadline=None)
@given(st.data())
def test_a_line_torn_by_a_kill_is_dropped(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    whole = b"".join(line + b"\n" for line in LINES[:3])
    torn = LINES[3][: data.draw(st.integers(0, len(LINES[3])))]
    (folder / "ledger.jsonl").write_bytes(whole + torn)
    with opened(folder) as ledger:
        ledger.append("resumed")
        ledger.seal()
    lines = lines_of(folder)
    assert lines[:3] == LINES[:3] and len(lines) == 4 and verify(lines).faults == []


def test_a_damaged_ledger_is_not_continued(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(b"\n".join([LINES[0], LINES[2], b""]))
    with pytest.raises(CheckpointError, match=r"MDW-520.*lines 2 to 2 were removed"):
        opened(tmp_path)
    assert len(lines_of(tmp_path)) == 2


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as first:
        with pytest.raises(CheckpointError, match="MDW-521: Another process is writing"):
            opened(tmp_path)
        first.append("still mine")
        first.seal()
    opened(tmp_path).close()
    assert len(lines_of(tmp_path)) == 1


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    def short(handle: int, data: bytes) -> int:
        if len(data) <= 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data[:20])

    with opened(tmp_path) as ledger:
        ledger.append("one")
        ledger.seal()
        ledger.append("two")
        monkeypatch.setattr(os, "write", short)
        with pytest.raises(CheckpointError, match="MDW-513"):
            ledger.seal()
        monkeypatch.undo()
        assert len(lines_of(tmp_path)) == 1, "half a line would spoil the next one"
        ledger.append("three")
        ledger.seal()
    assert [json.loads(line)["event"] for line in lines_of(tmp_path)] == ["one", "two", "three"]
    assert verify(lines_of(tmp_path)).faults == []


def test_facts_that_are_not_plain_are_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger, pytest.raises(ValueError, match="JSON"):
        ledger.append("bad", norm=float("nan"))
    assert lines_of(tmp_path) == []


def test_segments_in_a_store_are_the_file(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    with opened(tmp_path, store) as ledger:
        a_run(ledger)
    assert store.list("ledger/") == [f"ledger/run-1/{n:09d}.jsonl" for n in (1, 2, 5, 8)]
    assert stored_lines(store, "run-1") == lines_of(tmp_path)


def test_on_another_machine_the_ledger_comes_back_from_the_store(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    with opened(tmp_path / "first", store) as ledger:
        anchor = a_run(ledger)[-1]
        ledger.append("never sealed")
    with opened(tmp_path / "second", store) as ledger:
        assert ledger.head == anchor.head
        again = ledger.round_closed(3, "00", [])
    assert verify(lines_of(tmp_path / "second"), [anchor, again]).status == "verified"
    assert stored_lines(store, "run-1") == lines_of(tmp_path / "second")


def test_after_a_crash_before_the_seal_the_file_is_longer_and_wins(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    with opened(tmp_path, store) as ledger:
        a_run(ledger, rounds=1)
    # As after a crash between the write to the file and the one to the store.
    with opened(tmp_path) as ledger:
        ledger.append("not in the store")
        ledger.seal()
    with opened(tmp_path, store) as ledger:
        ledger.append("more")
        ledger.seal()
    assert stored_lines(store, "run-1") == lines_of(tmp_path)


def test_two_histories_are_refused(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    first, second = opened(tmp_path / "first", store), opened(tmp_path / "second", store)
    with first, second:
        first.append("one")
        second.append("other")
        first.seal()
        with pytest.raises(CheckpointError, match=r"MDW-521.*two histories"):
            second.seal()
    with pytest.raises(CheckpointError, match=r"MDW-521.*two histories"):
        opened(tmp_path / "second", store)
    opened(tmp_path / "second" / "moved", store).close()


def test_a_file_is_verified_with_its_unfinished_end(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        a_run(ledger)
    path = tmp_path / "ledger.jsonl"
    assert verify_file(path).faults == []
    with path.open("ab") as file:
        file.write(b'{"event')
    assert verify_file(path).faults == ["line 9 is unfinished"]
    with pytest.raises(CheckpointError, match="MDW-532"):
        verify_file(tmp_path / "absent.jsonl")


def test_a_round_s_lines_cost_one_sync_for_any_number_of_silos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with opened(tmp_path) as ledger:
        synced.clear()
        for silo in range(100):
            ledger.update(1, f"silo-{silo}", Admitted(10, 0.5), "ab")
        assert synced == [] and lines_of(tmp_path) == []
        ledger.round_closed(1, "ef", [])
    assert len(synced) == 1 and len(lines_of(tmp_path)) == 101


def test_a_ledger_of_another_version_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        a_run(ledger)
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"version":3', b'"version":99'))
    before = path.read_bytes()
    for look in (lambda: opened(tmp_path), lambda: verify_file(path)):
        with pytest.raises(CheckpointError, match=r"MDW-505.*version 99.*version [23]"):
            look()
    assert path.read_bytes() == before
