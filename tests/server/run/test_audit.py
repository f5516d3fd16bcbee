"""`meadow verify` tells a whole run from one that was changed, and says what confirms it.

Forged runs are in tests/security/test_ledger_attacks.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flwr.supercore.task_identity import TaskIdentity

from azureml_jobs.cli.main import main
from client.node.witness import LEDGER_RECORD, LedgerRecord
from conf.errors import CheckpointError
from server.run.audit import Outside, audit, audit_record
from server.run.history import FILE as HISTORY
from server.run.history import History, Mark
from server.run.ledger import Ledger
from server.run.result import FinalTest, RunResult
from strategies.wire.receipts import SignedAnchor
from tests.security.signed_run import SignedRun, chained_anew, copied, facts, signed_run
from tests.server.sample_results import sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of two rounds that nobody signed, whose silo has kept the anchor of the first."""
    (tmp_path / "config.yaml").write_text("run: {}\n")
    with Ledger(tmp_path / "ledger.jsonl", "run-1") as ledger:
        begin(ledger, tmp_path)
        first = ledger.round_closed(1, "m1", ["a"])
        last = ledger.round_closed(2, "m2", ["a"])
    (tmp_path / "silo").mkdir()
    LedgerRecord(tmp_path / "silo").anchor("run-1", 1, SignedAnchor(str(first)))
    LedgerRecord(tmp_path / "silo").anchor("another", 1, SignedAnchor(f"1:{'0' * 64}"))
    result = RunResult("run-1", "local", "digits", "fedavg", ["a"], ledger=str(last))
    result.config_digest = "d"
    (tmp_path / "result.json").write_text(result.to_json())
    return tmp_path


def begin(ledger: Ledger, folder: Path, code: str = "c") -> None:
    from server.run.run_folder import config_digest

    ledger.run_started(
        federation="f",
        code=code,
        tree="t",
        config="d",
        config_file=config_digest(folder),
        silos=["a"],
        resumed=False,
    )


def kept(folder: Path) -> Outside:
    return Outside(records=[folder / "silo" / LEDGER_RECORD])


def test_a_whole_ledger_is_confirmed_by_what_the_silo_kept(folder: Path) -> None:
    verdict = audit(folder, kept(folder))
    assert verdict.status == "verified"
    assert verdict.anchored == 2
    assert verdict.confirmed == [str(folder / "silo" / LEDGER_RECORD)]
    assert "the last 1 of them are not confirmed yet" in str(verdict)


@pytest.mark.parametrize("line", [0, 1, 2])
@pytest.mark.parametrize("verb", [["verify"], ["report", "--verify"]])
def test_a_changed_line_is_found_and_has_its_own_status(
    folder: Path, line: int, verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (folder / "ledger.jsonl").read_text().splitlines()
    changed = json.loads(lines[line]) | {"time": 1.0}
    lines[line] = json.dumps(changed, sort_keys=True, separators=(",", ":"))
    (folder / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    assert main([*verb, f"run={folder}"]) == CheckpointError.exit_status
    assert "broken" in capsys.readouterr().out


def test_who_rewrites_the_ledger_and_the_result_is_found_by_what_the_silo_kept(
    folder: Path,
) -> None:
    (folder / "ledger.jsonl").unlink()
    with Ledger(folder / "ledger.jsonl", "run-1") as ledger:
        begin(ledger, folder, code="another")
        last = ledger.round_closed(1, "m1", ["a"])
    result = RunResult.read(folder)
    result.ledger = str(last)
    (folder / "result.json").write_text(result.to_json())
    assert audit(folder).status == "unconfirmed"
    assert audit(folder, kept(folder)).status == "broken"


def test_without_anything_outside_it_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--verify", f"run={folder}"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("unconfirmed") and "nothing but the folder itself" in said
    assert "this run had no CA, as in a simulation" in said


def test_a_file_that_is_no_silo_s_record_is_named(folder: Path) -> None:
    for name, text in {
        "nothing.jsonl": None,
        "text.jsonl": "words",
        "list.jsonl": "[1]",
        "receipt.jsonl": '{"run": "run-1", "receipt": {"silo": 1}}',
    }.items():
        if text is not None:
            (folder / name).write_text(text)
        with pytest.raises(CheckpointError, match=rf"MDW-523.*{name}"):
            audit(folder, Outside(records=[folder / name]))


def with_a_history(folder: Path) -> None:
    """Write the history of three rounds, the second done twice, and a ledger that holds their digests."""
    (folder / "ledger.jsonl").unlink()
    records = sample(2, 3).records
    history = History(folder / HISTORY, Mark())
    with Ledger(folder / "ledger.jsonl", "run-1") as ledger:
        begin(ledger, folder)
        ledger.round_closed(1, "m1", ["a"], history=history.append(records[0]).head)
        ledger.round_closed(2, "m2", ["a"], history="ab" * 32)
        ledger.round_closed(2, "m2", ["a"], history=history.append(records[1]).head)
        last = ledger.round_closed(3, "m3", ["a"], history=history.append(records[2]).head)
    result = RunResult.read(folder)
    result.ledger = str(last)
    (folder / "result.json").write_text(result.to_json())


def test_the_history_is_compared_with_the_ledger(folder: Path) -> None:
    with_a_history(folder)
    assert audit(folder).faults == []
    path = folder / HISTORY
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1]) + lines[1].replace("0.", "1.", 1) + lines[2])
    assert audit(folder).faults == [f"line 2 of {HISTORY} is not the one of the ledger"]
    path.write_text("".join(lines[:2]))
    assert audit(folder).faults == [f"line 3 of {HISTORY} is missing"]
    path.write_text("".join(lines) + "a line that never counted\n")
    assert audit(folder).faults == []


def with_a_test(folder: Path) -> RunResult:
    """Let the run have ended twice: what its result says is of the second end."""
    first = FinalTest(1, ["a"], {}, {}, {"a": {"loss": 2.0}}, {"loss": 2.0})
    test = FinalTest(2, ["a"], {}, {}, {"a": {"loss": 1.0}}, {"loss": 1.0, "f1": float("nan")})
    with Ledger(folder / "ledger.jsonl", "run-1") as ledger:
        ledger.model_tested(1, "m1", first.digest)
        last = ledger.model_tested(2, "m2", test.digest)
    result = RunResult.read(folder)
    result.test = test
    result.final = test.final
    result.ledger = str(last)
    (folder / "result.json").write_text(result.to_json())
    return RunResult.read(folder)


def test_the_test_is_compared_with_the_ledger(folder: Path) -> None:
    result = with_a_test(folder)
    assert audit(folder).faults == []
    assert result.test is not None
    result.test.metrics["a"]["loss"] = 0.5
    (folder / "result.json").write_text(result.to_json())
    assert audit(folder).faults == ["result.json: its test is not the one of the ledger"]


def test_a_final_metric_that_was_changed_is_found(folder: Path) -> None:
    result = with_a_test(folder)
    result.final["loss"] = 0.5
    (folder / "result.json").write_text(result.to_json())
    assert audit(folder).faults == ["result.json: its final metrics are not those of its test"]


def test_a_test_that_the_ledger_does_not_know_is_found(folder: Path) -> None:
    result = RunResult.read(folder)
    result.test = FinalTest(2, ["a"])
    (folder / "result.json").write_text(result.to_json())
    assert audit(folder).faults == ["result.json: its test is not the one of the ledger"]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> SignedRun:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_task_id", "_run_id", "_node_id"):
            patch.setattr(TaskIdentity, name, 1)
        return signed_run(tmp_path_factory.mktemp("honest"), away=("silo-2",))


def test_a_silo_verifies_what_it_kept_without_a_run_s_folder(
    honest: SignedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(honest, tmp_path)
    (tmp_path / "ca.pem").write_bytes(run.authority.pem)
    record = run.record_of("silo-1")
    model = run.folder / "model/model.safetensors"
    line = ["verify", f"records={record}", f"ca={tmp_path / 'ca.pem'}"]
    assert main([*line, f"weights={model}"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("verified: 4 anchors agree with each other and with the model")
    assert "confirmed by the orchestrator's key" in said
    (tmp_path / "other.safetensors").write_bytes(model.read_bytes()[:-4] + b"\0\0\0\1")
    assert main([*line, f"weights={tmp_path / 'other.safetensors'}"]) == CheckpointError.exit_status
    assert "is not the model that this silo was told" in capsys.readouterr().out


def test_a_silo_that_was_away_at_the_end_is_told_what_it_holds(honest: SignedRun) -> None:
    record = honest.record_of("silo-2")
    verdict = audit_record(record, honest.authority.pem)
    assert verdict.status == "verified"
    assert "silo-2 was away at the end, or the run goes on" in verdict.notes[0]
    model = honest.folder / "model/model.safetensors"
    told = audit_record(record, honest.authority.pem, model=model)
    assert "nobody told this silo which model is the run's" in told.faults[0]


def test_a_ledger_that_goes_back_is_seen_by_the_silo_alone(
    honest: SignedRun, tmp_path: Path
) -> None:
    run = copied(honest, tmp_path)
    lines = run.record_of("silo-1").read_text().splitlines()
    anchors = [
        n for n, line in enumerate(lines) if '"signature"' in line and '"receipt"' not in line
    ]
    lines.append(lines[anchors[0]])
    run.record_of("silo-1").write_text("\n".join(lines) + "\n")
    verdict = audit_record(run.record_of("silo-1"), run.authority.pem)
    assert "the ledger of round 0 is not the one before" in str(verdict)


def test_an_auditor_gives_the_ca_and_the_silos_public_keys(
    honest: SignedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from azureml_jobs.identity.node_key import public_line

    run = copied(honest, tmp_path)
    (tmp_path / "ca.pem").write_bytes(run.authority.pem)
    (tmp_path / "keys").mkdir()
    for silo in ("silo-1", "silo-3"):
        line = public_line(run.authority.keys[silo].public_key())
        (tmp_path / "keys" / f"node-{silo}.pub").write_text(line)
    arguments = [f"run={run.folder}", f"ca={tmp_path / 'ca.pem'}", f"keys={tmp_path / 'keys'}"]
    assert main(["verify", *arguments]) == 0
    said = capsys.readouterr().out
    assert "confirmed by silo-1, silo-2, silo-3, the orchestrator's key" in said
    assert "silo-2 was away at the end: it holds the ledger as of round 2" in said


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("ca=nothing.pem", "can't be read"),
        ("keys=nothing", "no public keys"),
        ("weights=x", "records="),
    ],
)
def test_what_can_t_be_used_is_named(
    folder: Path, argument: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", f"run={folder}", argument]) != 0
    error = capsys.readouterr().err
    assert "MDW-111" in error and said in error


def test_signatures_that_were_taken_out_do_not_pass_where_a_ca_is_named(
    honest: SignedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a ledger is that of a run without a CA; a script that names one must not go on."""
    run = copied(honest, tmp_path)
    (tmp_path / "ca.pem").write_bytes(run.authority.pem)
    gone = ("head signed", "silo key", "receipt", "receipt missing", "run closed")
    lines = [line for line in facts(run) if line["event"] not in gone]
    chained_anew(run, [line | ({"signer": None} if "signer" in line else {}) for line in lines])
    assert main(["verify", f"run={run.folder}"]) == 0
    assert "unconfirmed" in capsys.readouterr().out
    named = ["verify", f"run={run.folder}", f"ca={tmp_path / 'ca.pem'}"]
    assert main(named) == CheckpointError.exit_status
    assert "nothing that was given (ca=) confirms it" in capsys.readouterr().out


def test_the_ca_is_found_by_the_caller_s_own_federation_s_file(
    honest: SignedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(honest, tmp_path)
    (tmp_path / "ca.pem").write_bytes(run.authority.pem)
    own = f"federation.orchestrator.ca={tmp_path / 'ca.pem'}"
    assert main(["verify", f"run={run.folder}", own]) == 0
    assert "confirmed by silo-1, silo-2, silo-3" in capsys.readouterr().out


def test_it_asks_for_a_run_or_for_one_record(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify"]) != 0
    assert "give run=RUN_ID, or one file with records=FILE" in capsys.readouterr().err
