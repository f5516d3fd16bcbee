"""What signatures cost a round, and how long `meadow verify` takes on a long run.

    python benchmarks/ledger.py --rounds 1000 --silos 10

The run's folder is made by the product's own classes: each head is signed, each receipt is signed by
a silo's key and checked before it is noted, as in a federation; nothing is trained. Prints a table.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import numpy as np
from cryptography.hazmat.primitives import serialization
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from azureml_jobs.identity.authority import make_ca, server_credentials
from azureml_jobs.identity.node_key import NodeKey, fresh_node_key, load_node_key, public_line
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.identity.signatures import RECEIPT, HeadSigner, authorities_in, sign
from azureml_jobs.identity.signed_admission import Admission, AdmissionAuthority
from client.node.witness import LedgerRecord, Witness
from conf.compose import compose
from server.orchestrator.nodes import node_id_of
from server.round.admission import Admitted
from server.round.receipt_check import Receipts
from server.run.audit import Outside, audit
from server.run.history import FILE as HISTORY
from server.run.history import History, Mark
from server.run.ledger import Ledger
from server.run.result import RoundRecord, RunResult
from server.run.run_folder import RunFolder
from server.run.verdict import FILE
from strategies.wire import protocol, run_config
from strategies.wire.digests import update_digest
from strategies.wire.receipts import Receipt

RUN = "long"


def main() -> None:
    """Make a run, verify it, and print what each part took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--silos", type=int, default=10)
    given = parser.parse_args()
    for name in ("_task_id", "_run_id", "_node_id"):
        setattr(TaskIdentity, name, 1)
    with tempfile.TemporaryDirectory() as temporary:
        made = Made(Path(temporary), given.silos)
        for name, seconds in made.parts().items():
            print(f"{name:58} {seconds * 1e3:9.3f} ms")
        started = time.process_time()
        made.run(given.rounds)
        each = (time.process_time() - started) / given.rounds
        print(f"{'a round with both sides, all silos in this process':58} {each * 1e3:9.3f} ms")
        size = (made.folder / FILE).stat().st_size
        lines = (made.folder / FILE).read_bytes().count(b"\n")
        print(f"the ledger: {lines} lines, {size / 2**20:.1f} MiB")
        for what, outside in (
            ("the folder alone", Outside()),
            ("with the CA", Outside(made.authority)),
        ):
            begun = time.perf_counter()
            verdict = audit(made.folder, outside)
            took = time.perf_counter() - begun
            print(f"verify, {what}: {took:.1f} s: {verdict.status} {verdict.faults[:2]}")


def timed(what: Callable[[], object], times: int = 200) -> float:
    """Return the processor seconds of one call, of the fastest of three series."""
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        for _ in range(times):
            what()
        best = min(best, (time.process_time() - started) / times)
    return best


class Made:
    """Keys of a federation, and a run of it."""

    def __init__(self, folder: Path, silos: int) -> None:
        folder.chmod(0o700)
        secrets = FolderSecrets(folder / "secrets")
        make_ca(secrets, "bench", datetime.now(UTC))
        self.authority = secrets.get("ca-certificate")
        self.signer = HeadSigner.of(
            server_credentials(secrets, ["127.0.0.1"], datetime.now(UTC), 365)
        )
        self.keys: dict[str, NodeKey] = {}
        self.admissions: dict[str, str] = {}
        signs = AdmissionAuthority(secrets, "bench")
        now = time.time()
        for number in range(silos):
            silo = f"silo-{number}"
            key = load_node_key(fresh_node_key()[0], silo)
            self.keys[silo] = key
            said = Admission("bench", silo, public_line(key.public_key()), now, now + 86400)
            self.admissions[pem(key)] = signs.sign(said)
        conf = compose(["task=digits", f"run.output={folder}", f"run.name={RUN}"])
        made = RunFolder.create(conf, "benchmark")
        self.folder = made.path
        self.config = run_config.digest(run_config.pack(conf))
        self.config_file = made.config_digest()

    def parts(self) -> dict[str, float]:
        """Return what each step of a round takes, in processor seconds."""
        folder = self.folder.parent / "parts"
        folder.mkdir()
        key = self.keys["silo-0"]
        with Ledger(folder / FILE, RUN, signer=self.signer) as ledger:
            anchor = str(self._begin(ledger))
            signed = ledger.signed(anchor)
            told = {
                protocol.RUN_ID: RUN,
                protocol.ROUND: 1,
                protocol.RUN_DIGEST: self.config,
                **signed.to_config(),
            }
            asked = Message(RecordDict({protocol.CONFIG: ConfigRecord(told)}), 2, "train")
            reply = Message(update(1_210), reply_to=asked)
            large = Message(update(4 * 2**20), reply_to=asked)
            silo = Witness("silo-0", key, authorities_in(self.authority), LedgerRecord(folder))
            receipts = Receipts(ledger, RUN, self.config, lambda key: "")
            digest = update_digest(reply.content)
            expected = receipts.expected("silo-0", 1, anchor, digest)
            node = node_id_of(pem(key).encode())
            answered = silo.answer(asked, reply)
            record = answered.content[protocol.RECEIPT]

            def hear() -> None:
                # Each round brings another anchor: what was checked before is of no use.
                silo._last_checked = None
                silo.hear(asked)

            def take() -> None:
                answered.content[protocol.RECEIPT] = record
                receipts.take(node, answered, expected)

            return {
                "server: sign a head": timed(lambda: self.signer.sign(b"x" * 150)),
                "server: check a receipt and note it": timed(take),
                "silo: check the anchor and keep it": timed(hear, 50),
                "silo: a receipt for 1,210 parameters": timed(
                    lambda: silo.answer(asked, reply), 50
                ),
                "silo: a receipt for 4 Mi parameters (16 MiB)": timed(
                    lambda: silo.answer(asked, large), 5
                ),
            }

    def _begin(self, ledger: Ledger) -> object:
        return ledger.run_started(
            federation="bench",
            code="c",
            tree="t",
            config=self.config,
            config_file=self.config_file,
            silos=sorted(self.keys),
            resumed=False,
        )

    def run(self, rounds: int) -> None:
        """Write a whole run."""
        result = RunResult(RUN, "local", "digits", "fedavg", sorted(self.keys), status="finished")
        result.config_digest = self.config
        with Ledger(self.folder / FILE, RUN, signer=self.signer) as ledger:
            anchor = str(self._begin(ledger))
            history = History(self.folder / HISTORY, Mark())
            for round in range(1, rounds + 1):
                for silo in self.keys:
                    self._update(ledger, silo, round, anchor)
                names = sorted(self.keys)
                mark = history.append(RoundRecord(round, names, names, aggregate={"loss": 0.5}))
                anchor = str(ledger.round_closed(round, "ab" * 32, names, history=mark.head))
            ledger.run_finished("finished", "ab" * 32, result.digest)
            result.ledger = str(ledger.run_closed(sorted(self.keys)))
        RunFolder(self.folder).write_result(result)

    def _update(self, ledger: Ledger, silo: str, round: int, anchor: str) -> None:
        update = f"{round:032x}" * 2
        ledger.update(round, silo, Admitted(10, 0.5), update)
        key = self.keys[silo]
        said = Receipt(silo, RUN, round, anchor, self.config, update, key=pem(key))
        receipt = dataclasses.replace(said, signature=sign(key, RECEIPT, said.statement))
        receipts = Receipts(ledger, RUN, self.config, self.admissions.__getitem__)
        asked = Message(RecordDict(), 2, "train")
        reply = Message(RecordDict({protocol.RECEIPT: receipt.to_record()}), reply_to=asked)
        expected = receipts.expected(silo, round, anchor, update)
        receipts.take(node_id_of(pem(key).encode()), reply, expected)


def pem(key: NodeKey) -> str:
    """Return the public half of a node key in PEM."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def update(parameters: int) -> RecordDict:
    """Return an update of so many float32 parameters in ten arrays."""
    each = parameters // 10
    arrays = {f"w{n}": Array(np.full(each, n, np.float32)) for n in range(10)}
    metrics = MetricRecord({protocol.NUM_EXAMPLES: 10})
    return RecordDict({protocol.ARRAYS: ArrayRecord(arrays), protocol.METRICS: metrics})


if __name__ == "__main__":
    main()
