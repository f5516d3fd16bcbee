"""Is a run what its ledger says, and is its ledger the one that was written?

`audit` looks at a run's folder: the chain, the signatures in it, and the model, configuration,
history and metrics beside it, of which the ledger holds digests. What is outside the folder decides
what it is worth: a CA's certificate, silos' keys, silos' own records. `audit_record` looks at what a
silo kept, for a silo that has no folder.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from safetensors import SafetensorError

from azureml_jobs.identity.signatures import authorities_in
from conf.errors import CheckpointError
from server.run.chain import line_digest, whole_lines
from server.run.history import FILE as HISTORY
from server.run.proofs import Proofs
from server.run.result import RunResult, finite
from server.run.run_folder import config_digest
from server.run.silo_record import SiloRecord, read_silo_record
from server.run.verdict import FILE, Anchor, Facts, Verdict, facts_of, verify, verify_file
from server.run.weights_file import read_weights
from strategies.wire.digests import arrays_digest
from strategies.wire.receipts import Receipt

MODEL = "model/model.safetensors"
ENDED = ("finished", "stopped_early")
ORCHESTRATOR = "the orchestrator's key"
"""Who confirms what a CA's orchestrator has signed, as it stands in a verdict."""
UNREADABLE = (SafetensorError, OSError, ValueError, LookupError, TypeError)
"""What reading a file of weights raises that somebody else wrote."""
MOST_NAMED = 5
"""Faults of one kind that are told one by one."""


@dataclass(frozen=True)
class Outside:
    """What is known apart from the run's folder; each is worth as much as the way it came.

    `authorities` are CAs, in PEM; `keys` the silos' public keys by name, in PEM; `records` files
    that silos kept.
    """

    authorities: bytes = b""
    keys: Mapping[str, Collection[str]] = field(default_factory=dict)
    records: Sequence[Path] = ()


def audit(folder: Path, outside: Outside | None = None) -> Verdict:
    """Return what a run's folder and what is known outside say of each other.

    Raises CheckpointError where a file can't be read.
    """
    outside = outside or Outside()
    result = RunResult.read(folder)
    records = [read_silo_record(path, result.run_id) for path in outside.records]
    lines = whole_lines((folder / FILE).read_bytes())[0] if (folder / FILE).is_file() else []
    named = authorities_in(outside.authorities)
    keys = {silo: set(known) for silo, known in outside.keys.items()}
    for record in records:
        for silo, key in record.keys.items():
            keys.setdefault(silo, set()).add(key)
    proofs = Proofs(result.run_id, named, keys)
    proofs.read(lines)
    anchors = [*_of_silos(records, named, proofs, lines), *proofs.anchors]
    verdict = verify_file(folder / FILE, anchors)
    _order_names(verdict)
    verdict.faults += proofs.faults
    verdict.faults += verify(lines, proofs.claimed).faults if not verdict.faults else []
    verdict.faults += _own_anchor(lines, result)
    verdict.faults += _updates_of_silos(records, proofs)
    _compare(folder, result, lines, verdict)
    verdict.notes += _notes(proofs, named, records)
    return verdict


def _order_names(verdict: Verdict) -> None:
    """Name silos first, by name, and the orchestrator last: silos are who is not the server."""
    silos = sorted(name for name in verdict.confirmed if name != ORCHESTRATOR)
    verdict.confirmed = silos + [name for name in verdict.confirmed if name == ORCHESTRATOR]


def _own_anchor(lines: Sequence[bytes], result: RunResult) -> list[str]:
    """Compare the ledger with the anchor in `result.json`: a fault where they differ, and no proof
    where they agree, since both lie in the folder.
    """
    if not result.ledger:
        return []
    own = verify(lines, [Anchor.parse("result.json", result.ledger)])
    return [fault for fault in own.faults if "result.json" in fault]


def _of_silos(
    records: Iterable[SiloRecord],
    named: Sequence[x509.Certificate],
    proofs: Proofs,
    lines: Sequence[bytes],
) -> list[Anchor]:
    """Return the anchors of the silos' records that are to be compared.

    With a CA those that its orchestrator has signed: a silo can't make one, and a server can't deny
    one. Without, all of them are a silo's word, which is compared too.
    """
    anchors = []
    for record in records:
        signed = record.signed(named)
        genuine = {told.line for told, _ in signed}
        anchors += [anchor for _, anchor in signed]
        for told in record.told:
            if told.line in genuine:
                continue
            anchor = Anchor.parse(record.silo, told.anchor)
            if not named:
                anchors.append(anchor)
            elif verify(lines, [anchor]).anchored == 0:
                proofs.notes.append(
                    f"{record.path.name}, line {told.line}: no orchestrator of this CA has signed"
                    " that anchor, and it is not this ledger's; it proves nothing"
                )
    return anchors


def _updates_of_silos(records: Iterable[SiloRecord], proofs: Proofs) -> list[str]:
    """Return what a silo says it sent, or was given, and the ledger has otherwise, without the
    silo's signature of that.
    """
    faults = []
    for record in records:
        mine: dict[tuple[int, str], list[Receipt]] = {}
        for receipt in record.receipts:
            if not receipt.closing:
                mine.setdefault((receipt.round, receipt.silo), []).append(receipt)
        for place, receipts in sorted(mine.items()):
            # What came too late, or never, is noted without a digest: who kept it may have made it.
            noted = proofs.updates.get(place, set()) - {""}
            if not noted or place in proofs.signed:
                continue
            where = f"{place[1]}, by its record of round {place[0]},"
            # A silo that crashed may have trained twice and kept both; one of them was sent.
            if not noted & {receipt.update for receipt in receipts}:
                faults.append(f"{where} sent another update")
            if not proofs.configs & {receipt.config for receipt in receipts}:
                faults.append(f"{where} was given another configuration")
    return faults


def _compare(folder: Path, result: RunResult, lines: Sequence[bytes], verdict: Verdict) -> None:
    """Compare the folder's other files with the digests in the ledger."""
    last = _last_facts(lines)
    _configuration(folder, result, last, verdict)
    faults = _history_faults(folder, lines)
    faults += _test_faults(result, last)
    faults += _result_faults(result, last)
    verdict.faults += faults
    if not faults:
        verdict.compared += ["history", "metrics"] if (folder / HISTORY).is_file() else ["metrics"]
    _model(folder, result, last, verdict)


def _last_facts(lines: Sequence[bytes]) -> dict[str, Facts]:
    """Return the last line of each event that says what the run's folder should hold.

    A run that was resumed after its end has a new end, or none yet.
    """
    last: dict[str, Facts] = {}
    for line in lines:
        facts = _of_event(
            line, "run started", "run resumed", "round closed", "model tested", "run finished"
        )
        if facts is None:
            continue
        event = str(facts["event"])
        if event == "run resumed":
            last.pop("run finished", None)
            event = "run started"
        last[event] = facts
    return last


def _configuration(
    folder: Path, result: RunResult, last: Mapping[str, Facts], verdict: Verdict
) -> None:
    begun = last.get("run started")
    if begun is None:
        verdict.faults.append("the ledger does not say that the run began")
        return
    faults = []
    if result.config_digest != begun.get("config"):
        faults.append("result.json: its configuration is not the one of the ledger")
    if config_digest(folder) != begun.get("config_file"):
        faults.append("config.yaml is not the one of the ledger")
    verdict.faults += faults
    if not faults:
        verdict.compared.append("configuration")


def _model(folder: Path, result: RunResult, last: Mapping[str, Facts], verdict: Verdict) -> None:
    """Compare the weights themselves, not what the result says of them."""
    finished = last.get("run finished")
    path = folder / MODEL
    if finished is None or not path.is_file():
        if result.model and finished is not None:
            verdict.notes.append("the model is not in the folder")
        return
    try:
        found = _file_digest(path)
    except UNREADABLE as error:
        verdict.faults.append(f"{MODEL} can't be read: {error}")
        return
    if found != finished.get("model"):
        verdict.faults.append(f"{MODEL} is not the model of the ledger")
    else:
        verdict.compared.insert(0, "model")
    if result.model.get("digest", finished.get("model")) != finished.get("model"):
        verdict.faults.append("result.json: its model is not the one of the ledger")


def _result_faults(result: RunResult, last: Mapping[str, Facts]) -> list[str]:
    """Return what is wrong with `result.json` beside the ledger's line of the run's end."""
    finished = last.get("run finished")
    if finished is None:
        # It is written last: who cuts the end off must not pass for a run that is in progress.
        if result.status in ENDED:
            return [f"the run is {result.status}, and the ledger does not say that it ended"]
        return []
    if result.digest != finished.get("result"):
        return ["result.json is not the one of the ledger"]
    return []


def _history_faults(folder: Path, lines: Sequence[bytes]) -> list[str]:
    """Return what is wrong with `history.jsonl` beside the ledger, which holds the digest of each
    of its lines.
    """
    known: dict[int, set[str]] = {}
    for line in lines:
        # A round that was repeated after a crash is in the ledger twice, and in the history once.
        facts = _of_event(line, "round closed")
        if facts is not None and isinstance(facts.get("round"), int) and facts.get("history"):
            known.setdefault(facts["round"], set()).add(str(facts["history"]))
    history = folder / HISTORY
    kept = whole_lines(history.read_bytes())[0] if history.is_file() else []
    digests = {number: line_digest(line) for number, line in enumerate(kept, 1)}
    faults = []
    # A line behind the ledger's last round never counted.
    for number, heads in sorted(known.items()):
        if digests.get(number) in heads:
            continue
        what = "is not the one of the ledger" if number in digests else "is missing"
        faults.append(f"line {number} of {HISTORY} {what}")
    if len(faults) > MOST_NAMED:
        faults[MOST_NAMED:] = [f"and {len(faults) - MOST_NAMED} more lines of {HISTORY}"]
    return faults


def _test_faults(result: RunResult, last: Mapping[str, Facts]) -> list[str]:
    """Return what is wrong with the test in `result.json`, of which the ledger holds the digest."""
    if result.test is None:
        return []
    faults = []
    if finite(result.test.final) != finite(result.final):
        faults.append("result.json: its final metrics are not those of its test")
    # A run that was resumed for more rounds has been tested more than once: the last one counts.
    if result.test.digest != last.get("model tested", {}).get("test"):
        faults.append("result.json: its test is not the one of the ledger")
    return faults


def _of_event(line: bytes, *events: str) -> dict[str, Any] | None:
    """Return a line's facts if it is of one of these events."""
    # Cheap first: a long run has many lines of other events.
    if not any(f'"event":"{event}"'.encode() in line for event in events):
        return None
    facts = facts_of(line)
    return facts if facts is not None and facts.get("event") in events else None


def _notes(
    proofs: Proofs, named: Sequence[x509.Certificate], records: Sequence[SiloRecord]
) -> list[str]:
    """Return what a reader of the verdict should know."""
    notes = list(proofs.notes)
    if not proofs.signed_heads:
        notes.append("no head is signed: this run had no CA, as in a simulation")
    elif not named:
        notes.append(
            "the heads are signed by a key whose CA only the ledger names: give the CA's"
            " certificate (ca=FILE) to have it count"
        )
    if proofs.unvouched:
        silos = ", ".join(sorted(proofs.unvouched))
        notes.append(f"receipts of {silos} agree, by keys that only the ledger names")
    for silo, count in sorted(proofs.missing.items()):
        notes.append(f"{silo} gave no receipt {count} times")
    for silo, holds in sorted((proofs.held or {}).items()):
        if holds is None:
            notes.append(f"{silo} holds nothing of this ledger")
        elif not holds["closing"]:
            notes.append(
                f"{silo} was away at the end: it holds the ledger as of round {holds['round'] - 1}"
            )
    for record in records:
        notes += [f"{record.silo}: {event}" for event in record.forgotten]
        notes += _never_arrived(record, proofs)
    return notes


def _never_arrived(record: SiloRecord, proofs: Proofs) -> list[str]:
    """Say of which rounds a silo kept an update that by the ledger did not come in time."""
    kept = sorted({one.round for one in record.receipts if not one.closing})
    rounds = [str(one) for one in kept if proofs.updates.get((one, record.silo)) == {""}]
    if not rounds:
        return []
    return [f"{record.silo} has an update of round {', '.join(rounds)} that did not come in time"]


def audit_record(
    path: Path, authorities: bytes, run: str = "", model: Path | None = None
) -> Verdict:
    """Return what a silo's own record says by itself: which anchors it was told, whether they were
    signed, and whether a `model` file is the one that it was told at the end.

    Raises CheckpointError MDW-523 where it can't be read or holds nothing of the run.
    """
    record = read_silo_record(path, run)
    if not record.told:
        what = f"{path} holds nothing of {run or 'any run'}."
        raise CheckpointError("MDW-523", what, "Name the record of another silo, or another run.")
    signed = record.signed(authorities_in(authorities))
    last = record.told[-1]
    verdict = Verdict(len(record.told), last.anchor, counted="anchors")
    if authorities and len(signed) < len(record.told):
        genuine = {told.line for told, _ in signed}
        wrong = [told.line for told in record.told if told.line not in genuine]
        numbers = ", ".join(map(str, wrong[:MOST_NAMED]))
        verdict.faults.append(f"no orchestrator of this CA signed the anchors of lines {numbers}")
    verdict.faults += _going_back(record)
    closing = record.closing
    if closing is None:
        verdict.notes.append(
            f"{record.silo} was away at the end, or the run goes on: it holds the ledger as of"
            f" round {last.round}, {last.anchor}"
        )
    else:
        verdict.notes.append(f"at the end of {record.run} the ledger was {closing.anchor}")
        verdict.notes.append(f"its model is {closing.model}")
    if model is not None:
        _told_model(closing.model if closing else "", model, verdict)
    if signed:
        verdict.confirmed.append(ORCHESTRATOR)
        verdict.anchored = len(signed)
    return verdict


def _going_back(record: SiloRecord) -> list[str]:
    """Return where a later anchor has fewer lines than an earlier one, or the same number and
    another head: a ledger only grows.
    """
    faults = []
    before: Anchor | None = None
    for told in record.told:
        anchor = Anchor.parse(record.silo, told.anchor)
        if before is not None and (
            anchor.lines < before.lines
            or (anchor.lines == before.lines and anchor.head != before.head)
        ):
            faults.append(
                f"line {told.line}: the ledger of round {told.round} is not the one before"
            )
        before = anchor
    return faults


def _file_digest(path: Path) -> str:
    """Return the digest of the weights in a file, the one that the ledger holds of a model."""
    return arrays_digest(read_weights(path))


def _told_model(told: str, path: Path, verdict: Verdict) -> None:
    try:
        found = _file_digest(path)
    except UNREADABLE as error:
        verdict.faults.append(f"{path} can't be read: {error}")
        return
    if not told:
        verdict.faults.append(f"nobody told this silo which model is the run's: {path} may be any")
    elif found != told:
        verdict.faults.append(f"{path} is not the model that this silo was told")
    else:
        verdict.compared.append("model")
