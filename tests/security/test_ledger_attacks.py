"""What was called verified while it was forged: each way is found, or the verdict says that nobody confirms the run.

Who changes a run may hold its folder, the orchestrator's process, or a silo's. Each test says which of them it is, what
is known outside, and what the verdict is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from azureml_jobs.identity.node_key import fresh_node_key, load_node_key
from azureml_jobs.identity.owner_note import written_note
from azureml_jobs.identity.signatures import HEAD, HeadSigner, authorities_in, sign
from client.node.witness import LEDGER_RECORD, LedgerRecord
from conf.canonical import canonical
from conf.errors import CheckpointError
from server.run.audit import Outside, audit, audit_record
from server.run.history import FILE as HISTORY
from server.run.history import History, Mark, read_history
from server.run.proofs import Proofs
from server.run.verdict import FILE
from strategies.wire.receipts import SignedAnchor, head_statement
from tests.security.signed_run import (
    Authority,
    SignedRun,
    chained_anew,
    changed_result,
    copied,
    facts,
    receipts_in,
    signed_run,
)

pytestmark = pytest.mark.usefixtures("task_identity")
MODEL = "model/model.safetensors"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> SignedRun:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_task_id", "_run_id", "_node_id"):
            patch.setattr(TaskIdentity, name, 1)
        return signed_run(tmp_path_factory.mktemp("honest"))


@pytest.fixture
def run(honest: SignedRun, tmp_path: Path) -> SignedRun:
    return copied(honest, tmp_path)


def everything(run: SignedRun) -> Outside:
    """All that an auditor may have beside the folder."""
    records = [run.record_of(silo) for silo in run.silos]
    return Outside(run.authority.pem, run.authority.public_keys(), records)


def ca(run: SignedRun) -> Outside:
    return Outside(run.authority.pem)


def test_an_honest_run_is_confirmed_by_its_silos_and_by_the_orchestrator(run: SignedRun) -> None:
    verdict = audit(run.folder, Outside(run.authority.pem, run.authority.public_keys()))
    assert verdict.faults == []
    assert verdict.confirmed == ["silo-1", "silo-2", "silo-3", "the orchestrator's key"]
    assert verdict.compared == ["model", "configuration", "history", "metrics"]
    assert verdict.loose == 0 and verdict.notes == []


def test_an_auditor_needs_only_the_ca_which_has_admitted_the_silos_keys(run: SignedRun) -> None:
    verdict = audit(run.folder, ca(run))
    assert verdict.confirmed == ["silo-1", "silo-2", "silo-3", "the orchestrator's key"]
    assert verdict.notes == []


def test_an_honest_run_alone_is_confirmed_by_nothing_but_its_folder(run: SignedRun) -> None:
    verdict = audit(run.folder)
    assert verdict.status == "unconfirmed"
    assert "confirmed by nothing but the folder itself" in str(verdict)


def test_a_silo_s_record_confirms_the_run_under_the_silo_s_name(run: SignedRun) -> None:
    verdict = audit(run.folder, Outside(b"", {}, [run.record_of("silo-3")]))
    assert (verdict.status, verdict.confirmed) == ("verified", ["silo-3"])


# Whoever holds the folder


def test_weights_that_were_replaced_are_found_without_anything_from_outside(run: SignedRun) -> None:
    path = run.folder / MODEL
    save_file({name: np.full_like(array, 7) for name, array in load_file(path).items()}, path)
    assert audit(run.folder).faults == [f"{MODEL} is not the model of the ledger"]


def test_a_model_of_other_names_or_types_is_found(run: SignedRun) -> None:
    path = run.folder / MODEL
    arrays = load_file(path)
    for changed in (
        {f"{name}.": array for name, array in arrays.items()},
        {name: array.astype(np.float64) for name, array in arrays.items()},
    ):
        save_file(changed, path)
        assert audit(run.folder).status == "broken"


def test_weights_replaced_together_with_what_the_result_says_of_them_are_found(
    run: SignedRun,
) -> None:
    save_file({"w": np.full(4, 7, np.float32)}, run.folder / MODEL)
    changed_result(run, model={"path": MODEL, "digest": "7" * 64})
    assert f"{MODEL} is not the model of the ledger" in audit(run.folder).faults


@pytest.mark.parametrize(
    "changed",
    [
        {"final": {"loss": 0.25, "accuracy": 0.999}},
        {"seed": 7},
        {"rounds": 300},
        {"silos": ["silo-1", "silo-2", "silo-9"]},
        {"software": {"silo-1": {"torch": "9.9"}}},
        {"baseline": {"federated": {"union": {"loss": 0.0}, "by_silo": {}}, "silo_alone": {},
                      "centralised": None, "seconds": 1.0}},
    ],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
def test_a_forged_value_of_the_result_is_found(run: SignedRun, changed: dict[str, Any]) -> None:
    changed_result(run, **changed)
    assert "result.json is not the one of the ledger" in audit(run.folder).faults


def test_a_final_metric_forged_in_test_and_result_is_found(run: SignedRun) -> None:
    path = run.folder / "result.json"
    result = json.loads(path.read_text())
    for metrics in (
        result["final"],
        result["test"]["aggregate"],
        result["test"]["metrics"]["silo-1"],
    ):
        metrics["accuracy"] = 0.999
    path.write_text(json.dumps(result))
    assert "result.json: its test is not the one of the ledger" in audit(run.folder).faults


def test_a_round_s_metric_forged_in_a_history_that_was_chained_anew_is_found(
    run: SignedRun,
) -> None:
    records = list(read_history(run.folder))
    records[1].aggregate["loss"] = 0.001
    (run.folder / HISTORY).unlink()
    history = History(run.folder / HISTORY, Mark())
    for record in records:
        history.append(record)
    changed_result(run, history=history.mark.to_json())
    faults = audit(run.folder).faults
    assert f"line 2 of {HISTORY} is not the one of the ledger" in faults


def test_a_configuration_that_was_replaced_is_found(run: SignedRun) -> None:
    path = run.folder / "config.yaml"
    path.write_text(path.read_text().replace("rounds: ", "rounds: 1"))
    assert audit(run.folder).faults == ["config.yaml is not the one of the ledger"]
    changed_result(run, config_digest="0" * 64)
    assert "result.json: its configuration is not the one of the ledger" in audit(run.folder).faults


def test_commands_above_the_configuration_may_be_added(run: SignedRun) -> None:
    path = run.folder / "config.yaml"
    path.write_text("# meadow simulate run.resume=run-1\n" + path.read_text())
    assert audit(run.folder).faults == []


def renamed(run: SignedRun) -> list[dict[str, Any]]:
    """The ledger's lines, with silo-2 called silo-9."""
    text = json.dumps(facts(run)).replace("silo-2", "silo-9")
    lines: list[dict[str, Any]] = json.loads(text)
    return lines


def test_a_history_chained_anew_with_a_silo_renamed_is_found_by_the_heads_signatures(
    run: SignedRun,
) -> None:
    """The forger has the folder, and no key."""
    chained_anew(run, renamed(run))
    assert any("anchor" in fault or "signature" in fault for fault in audit(run.folder).faults)


def without_signatures(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines as those of a run that had no CA."""
    signed = ("head signed", "silo key", "receipt", "receipt missing", "run closed")
    return [
        line | ({"signer": None} if "signer" in line else {})
        for line in lines
        if line["event"] not in signed
    ]


def test_a_ledger_chained_anew_without_signatures_is_confirmed_by_nothing(run: SignedRun) -> None:
    """Alone it agrees with itself; a record of any silo, or the CA, tells it from the true one."""
    chained_anew(run, without_signatures(renamed(run)))
    changed_result(run, silos=["silo-1", "silo-9", "silo-3"])
    alone = audit(run.folder)
    assert alone.status != "verified"
    assert audit(run.folder, ca(run)).confirmed == []
    assert audit(run.folder, everything(run)).status == "broken"


def test_a_ledger_signed_anew_by_a_key_of_another_ca_is_found(
    run: SignedRun, tmp_path: Path
) -> None:
    """The forger makes a CA, an orchestrator and silos of his own: alone it agrees with itself."""
    other = signed_run(tmp_path / "forged", rounds=2)
    assert audit(other.folder).status == "unconfirmed"
    verdict = audit(other.folder, ca(run))
    assert verdict.status == "broken"
    assert "the certificate of the key that signs is of another CA" in verdict.faults[0]


def test_a_ledger_that_was_truncated_is_found(run: SignedRun) -> None:
    lines = (run.folder / FILE).read_bytes().splitlines(keepends=True)
    cut = next(n for n, line in enumerate(facts(run)) if line.get("round") == 3)
    (run.folder / FILE).write_bytes(b"".join(lines[:cut]))
    assert (
        "the run is finished, and the ledger does not say that it ended" in audit(run.folder).faults
    )
    assert any("cut after line" in fault for fault in audit(run.folder, everything(run)).faults)


def test_a_ledger_that_was_truncated_with_its_result_is_found_by_any_silo(run: SignedRun) -> None:
    """Cut back to a whole, signed round, with a result that says it is running: only others know of more."""
    lines = facts(run)
    cut = max(n for n, line in enumerate(lines) if line.get("round") == 2) + 2
    kept = (run.folder / FILE).read_bytes().splitlines(keepends=True)[:cut]
    (run.folder / FILE).write_bytes(b"".join(kept))
    head = json.loads(kept[-1])["anchor"]
    changed_result(run, status="running", ledger=head, test=None, final={}, model={})
    assert "cut after line" not in str(audit(run.folder, ca(run)))
    for silo in run.silos:
        verdict = audit(run.folder, Outside(run.authority.pem, {}, [run.record_of(silo)]))
        assert any("cut after line" in fault for fault in verdict.faults)


# Whoever holds the orchestrator's process, and with it the key that signs heads


def test_a_server_that_denies_an_anchor_is_found_by_a_silo_that_holds_it(run: SignedRun) -> None:
    """It signs another history, with the key of the same CA; the silos' records hold what it signed before."""
    chained_anew(run, without_receipts(facts(run)), run.signer)
    assert audit(run.folder, ca(run)).confirmed == ["the orchestrator's key"], "it alone says so"
    verdict = audit(run.folder, Outside(run.authority.pem, {}, [run.record_of("silo-1")]))
    assert verdict.status == "broken"
    assert any(
        "that silo-1 has seen" in fault or "silo-1 has seen" in fault for fault in verdict.faults
    )


def without_receipts(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["event"] not in ("receipt", "silo key")]


def test_a_server_that_keeps_true_receipts_beside_another_history_is_found(run: SignedRun) -> None:
    lines = facts(run)
    for line in lines:
        if line["event"] == "update admitted" and line["silo"] == "silo-2":
            line["examples"] = 99
    chained_anew(run, lines, run.signer)
    verdict = audit(run.folder, ca(run))
    assert verdict.status == "broken"
    assert any("silo-2 has seen" in fault or "silo-1 has seen" in fault for fault in verdict.faults)


def test_a_server_that_signs_in_a_silo_s_place_convinces_nobody_who_has_the_silo_s_key(
    run: SignedRun, tmp_path: Path
) -> None:
    """It makes keys for its silos and signs a whole other run; the true keys are another's."""
    forger = Authority(tmp_path / "keys", run.silos)
    forger.pem, forger.secrets = run.authority.pem, run.authority.secrets
    forger.admits = False
    forged = SignedRun(tmp_path / "other" / "run-1", forger, signer=run.signer, rounds=1)
    (tmp_path / "other").mkdir()
    forged.make()
    verdict = audit(forged.folder, Outside(run.authority.pem, run.authority.public_keys()))
    assert verdict.confirmed == ["the orchestrator's key"]
    assert any("by keys that only the ledger names" in note for note in verdict.notes)


def test_who_holds_the_ca_s_key_too_is_found_by_a_silo_s_own_key(
    run: SignedRun, tmp_path: Path
) -> None:
    """Its CA admits the forger's keys as the silos'; a key that came from the silo itself is worth more."""
    forger = Authority(tmp_path / "keys", run.silos)
    forger.pem, forger.secrets = run.authority.pem, run.authority.secrets
    (tmp_path / "other").mkdir()
    forged = SignedRun(tmp_path / "other" / "run-1", forger, signer=run.signer, rounds=1).make()
    assert "silo-1" in audit(forged.folder, ca(run)).confirmed
    known = {"silo-1": run.authority.public_keys()["silo-1"]}
    verdict = audit(forged.folder, Outside(run.authority.pem, known))
    assert verdict.confirmed == ["silo-2", "silo-3", "the orchestrator's key"]


@pytest.mark.parametrize("what", ["of another silo", "of another CA", "of another federation"])
def test_a_receipt_s_key_with_an_admission_of_something_else_is_found(
    run: SignedRun, tmp_path: Path, what: str
) -> None:
    lines = facts(run)
    keys = [line for line in lines if line["event"] == "silo key"]
    if what == "of another silo":
        keys[0]["admission"] = keys[1]["admission"]
    if what == "of another CA":
        other = Authority(tmp_path / "else", [])
        other.keys = run.authority.keys
        keys[0]["admission"] = other.admission(keys[0]["key"])
    if what == "of another federation":
        for line in lines:
            if "federation" in line:
                line["federation"] = "g"
    chained_anew(run, lines, run.signer)
    faults = [fault for fault in audit(run.folder, ca(run)).faults if "admission" in fault]
    assert faults, what


def test_an_update_that_the_server_noted_otherwise_is_found_by_the_silo_that_sent_it(
    run: SignedRun,
) -> None:
    lines = without_receipts(facts(run))
    for line in lines:
        if line["event"] == "update admitted" and line["silo"] == "silo-1":
            line["update"] = "00" * 32
    chained_anew(run, lines, run.signer)
    verdict = audit(run.folder, Outside(b"", {}, [run.record_of("silo-1")]))
    assert "silo-1, by its record of round 1, sent another update" in verdict.faults


def test_an_update_that_came_too_late_is_no_other_update(run: SignedRun) -> None:
    """A silo keeps what it has made before it sends it; the round may close meanwhile."""
    lines = without_receipts(facts(run))
    for line in lines:
        if (line.get("silo"), line.get("round")) != ("silo-1", 1):
            continue
        if line["event"] == "update admitted":
            line.update(event="update refused", update="", code="MDW-359", reason="too late")
    chained_anew(run, lines, run.signer)
    verdict = audit(run.folder, Outside(b"", {}, [run.record_of("silo-1")]))
    assert not [fault for fault in verdict.faults if "by its record" in fault]
    assert "silo-1 has an update of round 1 that did not come in time" in verdict.notes


def test_a_configuration_that_silos_were_not_given_is_found_by_any_of_them(run: SignedRun) -> None:
    """The server notes another than it sent, and leaves the receipts out that would say so."""
    lines = without_receipts(facts(run))
    for line in lines:
        if line["event"] == "run started":
            line["config"] = "00" * 32
    chained_anew(run, lines, run.signer)
    changed_result(run, config_digest="00" * 32)
    verdict = audit(run.folder, Outside(b"", {}, [run.record_of("silo-1")]))
    assert "silo-1, by its record of round 1, was given another configuration" in verdict.faults


def test_receipts_of_another_configuration_than_the_ledger_s_are_found_in_it(
    run: SignedRun,
) -> None:
    lines = facts(run)
    for line in lines:
        if line["event"] == "run started":
            line["config"] = "00" * 32
    chained_anew(run, lines, run.signer)
    assert any("is of another configuration" in fault for fault in audit(run.folder).faults)


# Receipts


def with_a_receipt(run: SignedRun, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Chain the ledger anew with silo-1's receipt of round 2 changed."""
    lines = facts(run)
    place = next(
        n for n, line in enumerate(lines)
        if line["event"] == "receipt" and line["silo"] == "silo-1" and line["round"] == 2
    )  # fmt: skip
    lines[place] = change(lines[place])
    chained_anew(run, lines, run.signer)


def test_a_receipt_with_another_digest_has_a_wrong_signature(run: SignedRun) -> None:
    with_a_receipt(run, lambda line: line | {"update": "00" * 32})
    assert any("the receipt of silo-1 has a wrong signature" in f for f in audit(run.folder).faults)


def test_a_receipt_of_another_round_is_not_this_round_s(run: SignedRun) -> None:
    other = next(one for one in receipts_in(run) if one.silo == "silo-1" and one.round == 1)
    moved = {
        "round": 2,
        "signature": other.signature,
        "update": other.update,
        "anchor": other.anchor,
    }
    with_a_receipt(run, lambda line: line | moved)
    assert any("the receipt of silo-1 has a wrong signature" in f for f in audit(run.folder).faults)


def test_a_receipt_of_another_run_is_not_this_run_s(run: SignedRun, tmp_path: Path) -> None:
    """The same silos, keys and updates in a run of another name."""
    (tmp_path / "other").mkdir()
    other = SignedRun(
        tmp_path / "other" / "run-2", run.authority, run="run-2", signer=run.signer
    ).make()
    theirs = next(one for one in receipts_in(other) if one.silo == "silo-1" and one.round == 2)
    replayed = {"signature": theirs.signature, "update": theirs.update, "anchor": theirs.anchor}
    with_a_receipt(run, lambda line: line | replayed)
    assert any("the receipt of silo-1 has a wrong signature" in f for f in audit(run.folder).faults)


def test_a_head_s_signature_is_not_one_of_a_receipt(run: SignedRun) -> None:
    """What is signed for one purpose is valid for no other, whoever's key it is."""
    key = run.authority.keys["silo-1"]
    receipt = next(one for one in receipts_in(run) if one.silo == "silo-1" and one.round == 2)
    assert sign(key, HEAD, receipt.statement) != receipt.signature
    with_a_receipt(run, lambda line: line | {"signature": sign(key, HEAD, receipt.statement)})
    assert any("the receipt of silo-1 has a wrong signature" in f for f in audit(run.folder).faults)


# Whoever holds a silo


def forged_record(run: SignedRun, signed: SignedAnchor, folder: Path) -> Path:
    folder.mkdir()
    LedgerRecord(folder).anchor(run.run, 2, signed)
    return folder / LEDGER_RECORD


def test_a_silo_that_forges_an_anchor_does_not_break_an_honest_ledger(
    run: SignedRun, tmp_path: Path
) -> None:
    """With the CA it proves nothing; without, it is one party's word against the other's, and is told."""
    record = forged_record(run, SignedAnchor(f"5:{'ab' * 32}"), tmp_path / "liar")
    verdict = audit(run.folder, Outside(run.authority.pem, {}, [record]))
    assert verdict.faults == []
    assert any(
        "no orchestrator of this CA has signed that anchor" in note for note in verdict.notes
    )
    assert audit(run.folder, Outside(b"", {}, [record])).status == "broken"


def test_a_silo_that_signs_an_anchor_with_its_own_key_forges_nothing(
    run: SignedRun, tmp_path: Path
) -> None:
    anchor = f"5:{'ab' * 32}"
    own = sign(run.authority.keys["silo-1"], HEAD, head_statement(run.run, anchor))
    assert run.signer is not None
    signed = SignedAnchor(anchor, own, run.signer.certificate)
    record = forged_record(run, signed, tmp_path / "liar")
    assert audit(run.folder, Outside(run.authority.pem, {}, [record])).faults == []
    told = audit_record(record, run.authority.pem)
    assert told.faults == ["no orchestrator of this CA signed the anchors of lines 2"]


def test_a_silo_that_hands_in_another_silo_s_receipt_is_not_believed(run: SignedRun) -> None:
    lines = facts(run)
    silo_2 = next(line for line in lines if line["event"] == "receipt" and line["silo"] == "silo-2")
    silo_2["silo"] = "silo-1"
    chained_anew(run, lines, run.signer)
    assert audit(run.folder, everything(run)).status == "broken"


# What the record says of who was away, and of who can't sign


def test_a_silo_that_was_away_at_the_end_holds_the_last_anchor_it_signed(tmp_path: Path) -> None:
    run = signed_run(tmp_path, away=("silo-2",))
    verdict = audit(run.folder, Outside(run.authority.pem, run.authority.public_keys()))
    assert verdict.status == "verified"
    assert verdict.notes == ["silo-2 was away at the end: it holds the ledger as of round 2"]
    closed = next(line for line in facts(run) if line["event"] == "run closed")
    assert closed["held"]["silo-2"]["closing"] is False
    assert closed["held"]["silo-1"]["closing"] is True


def test_a_silo_that_can_t_sign_costs_lines_and_no_fault(tmp_path: Path) -> None:
    run = signed_run(tmp_path, stock=("silo-2",))
    verdict = audit(run.folder, Outside(run.authority.pem, run.authority.public_keys()))
    assert verdict.confirmed == ["silo-1", "silo-3", "the orchestrator's key"]
    assert verdict.notes == [
        "silo-2 gave no receipt 3 times",
        "silo-2 holds nothing of this ledger",
    ]


def test_a_run_without_a_ca_says_that_nobody_signed(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", ["silo-1"])
    run = SignedRun(tmp_path / "run-1", authority, signer=None).make()
    verdict = audit(run.folder, Outside(authority.pem))
    assert verdict.status == "unconfirmed"
    assert verdict.notes[0] == "no head is signed: this run had no CA, as in a simulation"


def test_a_signature_that_is_no_base64_is_wrong_and_no_crash(run: SignedRun) -> None:
    for wrong in ("", "é", "A" * 10_000, "!!!!"):
        with_a_receipt(run, lambda line, wrong=wrong: line | {"signature": wrong})  # type: ignore[misc]
        assert audit(run.folder).status == "broken"


def test_lines_whose_facts_have_other_types_are_faults_and_no_crash(run: SignedRun) -> None:
    lines = facts(run)
    for event in (
        "run started",
        "head signed",
        "silo key",
        "receipt",
        "run finished",
        "run closed",
    ):
        for name in ("signer", "anchor", "key", "round", "model", "held", "silo"):
            changed = [
                line | {name: [1]} if line["event"] == event and name in line else line
                for line in lines
            ]
            if changed != lines:
                chained_anew(run, changed)
                assert audit(run.folder, everything(run)).status == "broken", (event, name)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 10**20), st.text(max_size=8),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
)  # fmt: skip


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_ledger_that_is_chained_anew_makes_the_check_raise(
    run: SignedRun, honest: SignedRun, data: st.DataObject
) -> None:
    lines = facts(honest)
    for _ in range(data.draw(st.integers(1, 4))):
        line = data.draw(st.sampled_from(lines))
        name = data.draw(st.sampled_from(sorted(line)))
        if data.draw(st.booleans()) and name != "event":
            del line[name]
        else:
            line[name] = data.draw(VALUES)
    chained_anew(run, [line | {"event": line.get("event")} for line in lines])
    with contextlib.suppress(CheckpointError):
        audit(run.folder, everything(run))


def test_a_receipt_s_statement_is_one_text_for_one_meaning(run: SignedRun) -> None:
    (first, *_) = receipts_in(run)
    other = dataclasses.replace(first, silo=first.silo + '","run":"x')
    assert canonical(json.loads(first.statement)) == first.statement != other.statement
    assert isinstance(run.signer, HeadSigner)


def noted(run: SignedRun, **changed: Any) -> list[str]:
    """Return what is said against a ledger that ends with a note of silo-1's owner, `changed`."""
    note = written_note(run.authority.keys["silo-1"], "f", "silo-1", 1, 500)
    facts = {**dataclasses.asdict(note), **changed}
    place = {"line": 999, "previous": ""}
    line = {**place, "event": "owner note", "round": 3, "silo": "silo-1", "note": facts}
    proofs = Proofs(run.run, authorities_in(run.authority.pem), run.authority.public_keys())
    proofs.read([*(run.folder / FILE).read_bytes().splitlines(), canonical(line)])
    return proofs.faults + proofs.notes


def test_a_server_can_not_write_a_note_of_a_silo_s_owner(run: SignedRun) -> None:
    assert noted(run) == []
    assert "wrong signature" in noted(run, examples_at_most=900)[0]
    assert "another silo or federation" in noted(run, federation="other")[0]
    own = load_node_key(fresh_node_key()[0], "the server's own")
    forged = written_note(own, "f", "silo-1", 2, 900)
    assert "nothing vouches for" in noted(run, **dataclasses.asdict(forged))[0]
    assert "whole numbers" in noted(run, examples_at_most="many")[0]
