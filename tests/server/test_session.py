"""A run is whole however it began or ended: no trap folder, no round that counts without its files, the same syncs."""

from __future__ import annotations

import itertools
import json
import os
import pkgutil
from pathlib import Path
from typing import Any

import pytest
from flwr.app import RecordDict

from azureml_jobs.storage.folder_store import FolderStore
from azureml_jobs.storage.prefix import PrefixStore
from conf.compose import compose
from conf.errors import CheckpointError, ConfigError, Interrupted, RoundError
from conf.silos import silos
from server.app import federate
from server.engines.pool import PoolGrid
from server.observers.base import Observer
from server.report.build import write_report
from server.round.admission import Admission
from server.round.judgement import Rejected, Verdict
from server.run.audit import audit
from server.run.finished import FinishedRun
from server.run.history import read_history
from server.run.result import RoundRecord, RunResult
from server.scoring.evaluation import evaluate_run
from server.session import session
from server.simulation import simulate, simulate_conf
from strategies import build_strategy

pytestmark = pytest.mark.usefixtures("undrawn")

POOL = ["task=digits", "data.examples=200", "federation.size=2", "model.hidden=[8]"]
POOL += ["simulation=pool", "simulation.workers=0", "tracking=off", "run.seed=5"]


class Killed(BaseException):
    """Stands for a process that ends at this place."""


def run(folder: Path, *words: str) -> FinishedRun:
    return simulate([*POOL, f"run.output={folder}", *words])


def resumed(folder: Path, rounds: int) -> FinishedRun:
    return simulate([f"run.output={folder}", "run.resume=a", f"run.rounds={rounds}"])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def digest(done: FinishedRun) -> str:
    return str(done.result.model["digest"])


def test_the_model_s_digest_is_that_of_its_tensors_alone(tmp_path: Path) -> None:
    one, other = run(tmp_path, "run.name=a"), run(tmp_path, "run.name=b")
    assert digest(one) == digest(other)
    assert one.result.model["sha256"] != other.result.model["sha256"], "the file holds the name"
    closed = [json.loads(line) for line in (tmp_path / "a/ledger.jsonl").read_text().splitlines()]
    assert closed[-1]["model"] == digest(one)


def killed_before_round_two_counts(
    monkeypatch: pytest.MonkeyPatch, target: str, call: int, *, before: bool
) -> None:
    """Let the `call`-th call of a function end the process, before or after it did its work."""
    owner, _, name = target.rpartition(".")
    holder = pkgutil.resolve_name(owner)
    real = getattr(holder, name)
    calls = itertools.count(1)

    def dying(*args: object, **more: object) -> object:
        now = next(calls)
        if now == call and before:
            raise Killed
        done = real(*args, **more)
        if now == call:
            raise Killed
        return done

    monkeypatch.setattr(holder, name, dying)


@pytest.mark.parametrize(
    ("target", "call", "before"),
    [
        ("server.run.history.History.append", 2, False),
        ("server.run.ledger.Ledger.round_closed", 2, True),
        ("server.run.ledger.Ledger.round_closed", 2, False),
        # A checkpoint is also written before the first round.
        ("server.run.checkpoint.Checkpoints.save", 3, True),
        ("server.run.checkpoint.point", 3, True),
    ],
)
def test_killed_anywhere_while_a_round_closes_it_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, call: int, before: bool
) -> None:
    whole = run(tmp_path / "whole", "run.name=a", "run.rounds=3")
    with monkeypatch.context() as patched:
        killed_before_round_two_counts(patched, target, call, before=before)
        with pytest.raises(Killed):
            run(tmp_path, "run.name=a", "run.rounds=3")
    assert RunResult.read(tmp_path / "a").rounds == 1, "the round that was closing does not count"
    after = resumed(tmp_path, 3)
    assert digest(after) == digest(whole)
    assert [record.round for record in read_history(tmp_path / "a")] == [1, 2, 3]
    assert after.result.history["lines"] == 3


def test_a_run_of_which_no_silo_could_evaluate_any_round_does_not_end_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Admission.check

    def refusing(self: Admission, content: RecordDict, **more: Any) -> Verdict:
        if more["phase"] == "evaluate":
            return Rejected("MDW-304", "no evaluation here")
        return check(self, content, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Admission, "check", refusing)
        with pytest.raises(RoundError, match=r"MDW-410: No silo could evaluate any round of a"):
            run(tmp_path, "run.name=a", "run.rounds=2")
    result = RunResult.read(tmp_path / "a")
    assert (result.status, result.error and result.error["code"]) == ("finished", "MDW-410")
    assert result.test is not None and result.test.metrics, "its final test works"
    assert result.model["digest"]
    # One round that was evaluated is a curve to look at, however little of it.
    assert resumed(tmp_path, 3).result.error is None


def test_a_history_that_was_deleted_is_not_continued(tmp_path: Path) -> None:
    run(tmp_path, "run.name=a", "run.rounds=2")
    (tmp_path / "a/history.jsonl").unlink()
    before = contents(tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"MDW-507.*0 of its 2 lines"):
        resumed(tmp_path, 3)
    assert contents(tmp_path / "a") == before, "what is refused is not changed"


@pytest.mark.parametrize("name", ["result.json", "history.jsonl", "ledger.jsonl"])
def test_a_run_of_another_version_is_not_continued(tmp_path: Path, name: str) -> None:
    run(tmp_path, "run.name=a", "run.rounds=2")
    path = tmp_path / "a" / name
    text = path.read_text()
    for stamp in ('"version":1', '"version":2', '"version":3', '"schema_version": 2'):
        text = text.replace(stamp, stamp[:-1] + "99")
    path.write_text(text)
    before = contents(tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"MDW-505.*version 99; .*|MDW-507"):
        resumed(tmp_path, 3)
    assert contents(tmp_path / "a") == before


def test_a_second_process_does_not_cut_the_history_of_the_first(tmp_path: Path) -> None:
    run(tmp_path, "run.name=a", "run.rounds=2")
    conf = compose([f"run.output={tmp_path}", "run.resume=a", "run.rounds=4"])
    with session(conf, silos(conf), mode="simulate") as first:
        # As when the first has written its line and not its checkpoint.
        first.history.append(RoundRecord(3, ["silo-1"]))
        with pytest.raises(CheckpointError, match="MDW-521"):
            resumed(tmp_path, 5)
        assert len(list(read_history(tmp_path / "a"))) == 3


def test_a_round_that_never_counted_is_not_in_the_report_of_a_run_that_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        killed_before_round_two_counts(
            patched, "server.run.checkpoint.Checkpoints.save", 3, before=True
        )
        with pytest.raises(Killed):
            run(tmp_path, "run.name=a", "run.rounds=3")
    result = RunResult.read(tmp_path / "a")
    assert (result.status, result.rounds) == ("failed", 1)
    assert len(list(read_history(tmp_path / "a"))) == 2
    assert len(FinishedRun(result, tmp_path / "a").rounds) == 1
    page = write_report(tmp_path / "a").read_text()
    assert "The run failed after 1 round<" in page


def test_a_damaged_result_is_written_anew(tmp_path: Path) -> None:
    run(tmp_path, "run.name=a", "run.rounds=2")
    (tmp_path / "a/result.json").write_text('{"schema_version": 2')
    assert resumed(tmp_path, 3).result.rounds == 3


def test_what_fails_while_the_folder_is_made_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **more: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("server.run.run_folder.write_atomic", full)
        with pytest.raises(Killed):
            run(tmp_path, "run.name=a")
    assert list(tmp_path.iterdir()) == []
    assert run(tmp_path, "run.name=a").result.status == "finished"
    with pytest.raises(ConfigError, match=r"MDW-181.*run\.resume="):
        run(tmp_path, "run.name=a")


def test_a_run_that_ended_before_its_first_checkpoint_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: object, **more: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("server.simulation.PoolGrid", away)
        with pytest.raises(Killed):
            run(tmp_path, "run.name=a", "run.rounds=2")
    assert digest(resumed(tmp_path, 2)) == digest(run(tmp_path, "run.name=b", "run.rounds=2"))


def test_a_history_without_a_checkpoint_is_not_begun_anew(tmp_path: Path) -> None:
    run(tmp_path, "run.name=a", "run.rounds=2")
    for path in (tmp_path / "a/checkpoints").iterdir():
        path.unlink()
    with pytest.raises(CheckpointError, match="MDW-503"):
        resumed(tmp_path, 3)
    assert len(list(read_history(tmp_path / "a"))) == 2


def test_a_stored_run_whose_checkpoints_were_forgotten_is_not_begun_anew(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    store.put_if_absent("history/000000001.jsonl", b"a round")
    conf = compose(["task=digits", "run.name=a", f"run.output={tmp_path}"])
    with (
        pytest.raises(CheckpointError, match="MDW-503: The run a has no checkpoint"),
        session(conf, silos(conf), mode="local", store=store),
    ):
        pass
    assert store.list("history/") == ["history/000000001.jsonl"]


class Syncs(Observer):
    """Notes how many syncs there had been when each round closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        self.at: list[int] = []
        real = os.fsync

        def fsync(handle: int) -> None:
            self.now += 1
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)

    def round_closed(self, record: RoundRecord) -> None:
        self.at.append(self.now)


@pytest.mark.parametrize("count", [3, 100])
def test_a_round_s_syncs_do_not_depend_on_the_silos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    syncs = Syncs(monkeypatch)
    monkeypatch.setattr("server.simulation.progress_display", lambda live: syncs)
    # result.json is written by the clock, not by the round.
    monkeypatch.setattr("server.session.RESULT_SECONDS", float("inf"))
    words = [*POOL, f"federation.size={count}", "data.examples=1500", "run.rounds=4"]
    simulate_conf(compose([*words, f"run.output={tmp_path}"]), shown="plain")
    # The first two rounds differ: a folder's first file, and no checkpoint that is old enough to go.
    assert [after - before for before, after in itertools.pairwise(syncs.at[1:])] == [7, 7]


def test_an_orchestrator_s_syncs_are_those_of_the_documents_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = Syncs(monkeypatch)
    monkeypatch.setattr("server.session.RESULT_SECONDS", float("inf"))
    conf = compose([*POOL, "run.name=a", "run.rounds=4", f"run.output={tmp_path}"])
    members = silos(conf)
    store = PrefixStore(FolderStore(tmp_path / "store"), "runs/a/")
    with (
        session(conf, members, mode="local", display=syncs, store=store) as opened,
        PoolGrid(members, 0) as grid,
    ):
        federate(opened, grid, build_strategy(conf.strategy))
    assert [after - before for before, after in itertools.pairwise(syncs.at[1:])] == [11, 11]
    assert len(store.list("history/")) == 4


def test_the_rounds_of_a_finished_run_are_its_history(tmp_path: Path) -> None:
    done = run(tmp_path, "run.rounds=2")
    assert [record.round for record in done.rounds] == [1, 2]
    assert len(done.rows()) == 2 * 3


def ledger_events(folder: Path) -> list[str]:
    lines = (folder / "ledger.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


@pytest.mark.parametrize(
    ("target", "before"),
    [
        ("server.round.rounds.final_test", True),
        ("server.round.rounds.final_test", False),
        ("server.run.ledger.Ledger.model_tested", False),
        ("server.session.Session.finish", True),
    ],
)
def test_killed_while_it_is_tested_a_run_has_no_test_and_when_resumed_the_unbroken_run_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, before: bool
) -> None:
    whole = run(tmp_path / "whole", "run.name=a", "run.rounds=2")
    with monkeypatch.context() as patched:
        killed_before_round_two_counts(patched, target, 1, before=before)
        with pytest.raises(Killed):
            run(tmp_path, "run.name=a", "run.rounds=2")
    broken = RunResult.read(tmp_path / "a")
    assert (broken.rounds, broken.test, broken.final) == (2, None, {})
    after = resumed(tmp_path, 2)
    assert after.result.status == "finished"
    assert after.result.test is not None
    assert whole.result.test is not None
    assert after.result.test.aggregate == whole.result.test.aggregate
    assert after.result.final == whole.result.final
    assert len(after.rounds) == 2
    assert audit(tmp_path / "a").faults == []


def test_a_run_that_is_interrupted_has_no_test_and_says_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("server.round.rounds.final_test", interrupted)
    with pytest.raises(Interrupted, match="after round 2, before its model was tested"):
        run(tmp_path, "run.name=a", "run.rounds=2")
    left = RunResult.read(tmp_path / "a")
    assert (left.status, left.test, left.final) == ("interrupted", None, {})


def test_a_run_that_is_resumed_for_more_rounds_is_tested_again_at_its_new_end(
    tmp_path: Path,
) -> None:
    first = run(tmp_path, "run.name=a", "run.rounds=2").result
    after = resumed(tmp_path, 3).result
    assert first.test is not None
    assert after.test is not None
    assert (first.test.round, after.test.round) == (2, 3)
    assert ledger_events(tmp_path / "a").count("model tested") == 2
    assert audit(tmp_path / "a").faults == []


def test_a_run_that_stopped_early_is_tested(tmp_path: Path) -> None:
    stop = ["run.early_stop.patience=1", "run.early_stop.min_delta=100", "run.rounds=9"]
    result = run(tmp_path, "run.name=a", *stop).result
    assert result.status == "stopped_early"
    assert result.test is not None
    assert result.test.round == result.rounds == 2


def test_the_best_model_is_what_a_run_leaves_and_a_resumed_one_still_knows_it(
    tmp_path: Path,
) -> None:
    # A step so large that the model is best before it falls apart.
    words = ["run.keep=best", "trainer.lr=1.5", "run.early_stop.metric=loss", "run.rounds=4"]
    whole = run(tmp_path / "whole", "run.name=a", *words)
    losses = [record.aggregate["loss"] for record in whole.rounds]
    best = losses.index(min(losses)) + 1
    assert best < 4, losses
    assert whole.result.test is not None
    assert whole.result.test.round == whole.result.model["round"] == best
    again = evaluate_run(str(whole.folder))
    assert again.union == whole.result.test.aggregate
    run(tmp_path, "run.name=a", *words[:-1], f"run.rounds={best + 1}")
    after = resumed(tmp_path, 4)
    assert digest(after) == digest(whole)


def test_a_metric_that_cannot_choose_is_refused_before_there_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MDW-161"):
        run(tmp_path / "x", "run.keep=best", "run.early_stop.metric=central_accuracy")
    assert not (tmp_path / "x").exists()
