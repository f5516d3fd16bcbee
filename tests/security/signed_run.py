"""A finished run with everything that is signed in it, made by the very classes of both sides, without a process."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import serialization
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from azureml_jobs.identity.authority import make_ca, server_credentials
from azureml_jobs.identity.node_key import (
    NodeKey,
    fresh_node_key,
    load_node_key,
    public_line,
)
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.identity.signatures import HeadSigner, authorities_in
from azureml_jobs.identity.signed_admission import Admission, AdmissionAuthority
from client.node.witness import LEDGER_RECORD, LedgerRecord, Witness
from conf.canonical import canonical
from conf.compose import compose
from server.orchestrator.nodes import node_id_of
from server.report.overview import Overview
from server.round.judgement import Admitted
from server.round.receipt_check import Receipts
from server.run.chain import NOTHING, line_digest
from server.run.checkpoint import Kept
from server.run.history import FILE as HISTORY
from server.run.history import History, Mark
from server.run.ledger import Ledger
from server.run.result import FinalTest, RoundRecord, RunResult
from server.run.run_folder import RunFolder
from server.run.verdict import FILE
from strategies.wire import protocol, run_config
from strategies.wire.digests import arrays_digest, update_digest
from strategies.wire.receipts import MODEL, Receipt, head_statement


class Authority:
    """A federation's CA, its orchestrator's signer and its silos' keys."""

    def __init__(self, folder: Path, silos: Iterable[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self.secrets = FolderSecrets(folder / "secrets")
        make_ca(self.secrets, "test", datetime.now(UTC))
        self.admits = True
        self.pem = self.secrets.get("ca-certificate")
        self.keys: dict[str, NodeKey] = {
            silo: load_node_key(fresh_node_key()[0], silo) for silo in silos
        }

    def signer(self) -> HeadSigner:
        """A signer as each start of an orchestrator makes one."""
        return HeadSigner.of(server_credentials(self.secrets, ["127.0.0.1"], datetime.now(UTC)))

    def public(self, silo: str) -> str:
        return (
            self.keys[silo]
            .public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode()
        )

    def admission(self, key: str) -> str:
        """The certificate by which the CA admits a silo's key."""
        silo = next((name for name in self.keys if self.public(name) == key), "")
        if not silo or not self.admits:
            return ""
        line = public_line(self.keys[silo].public_key())
        now = time.time()
        said = Admission("f", silo, line, now, now + 86400)
        return AdmissionAuthority(self.secrets, "f").sign(said)

    def public_keys(self) -> dict[str, set[str]]:
        return {silo: {self.public(silo)} for silo in self.keys}


@dataclass
class SignedRun:
    """A run's folder, and the folders of its silos' nodes; `away` were not there at the end."""

    folder: Path
    authority: Authority
    run: str = "run-1"
    rounds: int = 3
    away: tuple[str, ...] = ()
    stock: tuple[str, ...] = ()
    signer: HeadSigner | None = None
    witnesses: dict[str, Witness] = field(default_factory=dict)

    @property
    def silos(self) -> list[str]:
        return sorted(self.authority.keys)

    def record_of(self, silo: str) -> Path:
        """The file that a silo kept."""
        return self.folder.parent / silo / LEDGER_RECORD

    def make(self) -> SignedRun:
        """Go through the run."""
        conf = compose(["task=digits", "federation.size=3", f"run.output={self.folder.parent}"])
        conf.run.name = self.folder.name
        folder = RunFolder.create(conf, "meadow submit")
        self.config = run_config.digest(run_config.pack(conf))
        for silo in self.silos:
            (self.folder.parent / silo).mkdir()
            self.witnesses[silo] = Witness(
                silo,
                self.authority.keys[silo],
                authorities_in(self.authority.pem),
                LedgerRecord(self.folder.parent / silo),
            )
        result = RunResult(
            self.run,
            "local",
            "digits",
            "fedavg",
            self.silos,
            status="finished",
            config_digest=self.config,
        )
        with Ledger(self.folder / FILE, self.run, signer=self.signer) as ledger:
            self._begin(ledger, folder)
            history = History(self.folder / HISTORY, Mark())
            for round in range(1, self.rounds + 1):
                self.round(ledger, history, round)
            self.end(ledger, folder, history, result)
        return self

    def _begin(self, ledger: Ledger, folder: RunFolder) -> None:
        anchor = ledger.run_started(
            federation="f",
            code="c",
            tree="t",
            config=self.config,
            config_file=folder.config_digest(),
            silos=self.silos,
            resumed=False,
        )
        self.anchor = str(anchor)

    def round(self, ledger: Ledger, history: History, round: int) -> None:
        """Train a round at every silo, and close it."""
        receipts = Receipts(ledger, self.run, self.config, self.authority.admission)
        for silo in self.silos:
            reply = self.answer(ledger, silo, round)
            digest = update_digest(reply.content)
            ledger.update(round, silo, Admitted(10, 0.5), digest)
            expected = receipts.expected(silo, round, self.anchor, digest)
            receipts.take(self.node(silo), reply, expected)
        record = RoundRecord(round, self.silos, self.silos, aggregate={"loss": 1.0 / round})
        mark = history.append(record)
        self.model = ArrayRecord({"w": Array(np.full(4, round, np.float32))})
        digest = arrays_digest(self.model)
        self.anchor = str(ledger.round_closed(round, digest, self.silos, history=mark.head))

    def node(self, silo: str) -> int:
        return node_id_of(self.authority.public(silo).encode())

    def answer(self, ledger: Ledger, silo: str, round: int) -> Message:
        """Return what a silo's node answers in a round, its receipt included."""
        content = RecordDict({protocol.CONFIG: ConfigRecord(self.told(ledger, round))})
        message = Message(content, self.node(silo), "train")
        values = np.full(4, round + sum(silo.encode()), np.float32)
        update = {
            protocol.ARRAYS: ArrayRecord({"w": Array(values)}),
            protocol.METRICS: MetricRecord({"num-examples": 10}),
        }
        reply = Message(RecordDict({**update}), reply_to=message)
        if silo in self.stock:
            return reply
        self.witnesses[silo].hear(message)
        return self.witnesses[silo].answer(message, reply)

    def told(self, ledger: Ledger, round: int) -> dict[str, Any]:
        return {
            protocol.RUN_ID: self.run,
            protocol.ROUND: round,
            protocol.RUN_DIGEST: self.config,
            **ledger.signed(self.anchor).to_config(),
        }

    def end(self, ledger: Ledger, folder: RunFolder, history: History, result: RunResult) -> None:
        """Test the model, tell the silos, write what a run leaves."""
        metrics = {"loss": 0.25, "accuracy": 0.5}
        result.test = FinalTest(
            self.rounds, self.silos, metrics={"silo-1": metrics}, aggregate=metrics
        )
        result.final = result.test.final
        result.rounds = self.rounds
        result.history = history.mark.to_json()
        digest = arrays_digest(self.model)
        ledger.model_tested(self.rounds, digest, result.test.digest)
        self.anchor = str(ledger.run_finished("finished", digest, result.digest))
        receipts = Receipts(ledger, self.run, self.config, self.authority.admission)
        for silo in self.silos:
            if silo in self.away or silo in self.stock or not ledger.signs:
                continue
            config = {**self.told(ledger, self.rounds), MODEL: digest}
            message = Message(
                RecordDict({protocol.CONFIG: ConfigRecord(config)}),
                self.node(silo),
                "query.closing",
            )
            reply = self.witnesses[silo].farewell(message)
            expected = receipts.expected(silo, self.rounds, self.anchor, digest, closing=True)
            receipts.take(self.node(silo), reply, expected)
        result.ledger = str(ledger.run_closed(self.silos) if ledger.signs else self.anchor)
        kept = Kept(self.rounds, self.model)
        folder.write_model(kept, result, Overview(), digest)
        folder.write_result(result)


def signed_run(folder: Path, *, silos: int = 3, **changed: Any) -> SignedRun:
    """Return a finished run below a folder, with a CA of its own."""
    authority = Authority(folder / "ca", [f"silo-{n}" for n in range(1, silos + 1)])
    made = SignedRun(folder / "run-1", authority, signer=authority.signer(), **changed)
    return made.make()


def copied(run: SignedRun, folder: Path) -> SignedRun:
    """Return a copy of a run and of what its silos kept, to be changed."""
    shutil.copytree(run.folder.parent, folder, dirs_exist_ok=True)
    return dataclasses.replace(run, folder=folder / run.folder.name)


def facts(run: SignedRun) -> list[dict[str, Any]]:
    """Return what the ledger's lines say."""
    return [json.loads(line) for line in (run.folder / FILE).read_bytes().splitlines()]


def chained_anew(
    run: SignedRun, lines: Iterable[Mapping[str, Any]], signer: HeadSigner | None = None
) -> None:
    """Write the ledger anew with these facts, as someone does who can write the folder: the chain holds, every head is
    signed anew with the forger's own `signer` where there is one, and the result has the new anchor.
    """
    written: list[bytes] = []
    for line in lines:
        head = line_digest(written[-1]) if written else NOTHING
        said = copy.deepcopy(dict(line)) | {"line": len(written) + 1, "previous": head}
        if line["event"] == "head signed" and signer is not None:
            said["anchor"] = f"{len(written)}:{head}"
            said["signature"] = signer.sign(head_statement(run.run, said["anchor"]))
        elif said.get("signer") and signer is not None:
            said["signer"] = {"certificate": signer.certificate, "ca": signer.ca}
        written.append(canonical(said))
    (run.folder / FILE).write_bytes(b"".join(line + b"\n" for line in written))
    changed_result(run, ledger=f"{len(written)}:{line_digest(written[-1])}")


def changed_result(run: SignedRun, **changed: Any) -> None:
    """Write other values into `result.json`."""
    path = run.folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def receipts_in(run: SignedRun) -> list[Receipt]:
    """Return all receipts that a ledger holds, with their keys."""
    keys: dict[str, str] = {}
    found = []
    for line in facts(run):
        if line["event"] == "silo key":
            keys[line["silo"]] = line["key"]
        if line["event"] == "receipt":
            found.append(Receipt.from_record({**line, "key": keys[line["silo"]]}))
    return found
