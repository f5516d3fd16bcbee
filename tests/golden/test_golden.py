"""What this release writes is what lies here, and it reads it: another form needs another version, and a migration.

When a format changes on purpose, raise its version, add a migration from the one before, keep the file here under
its old name as what must still be read, and write the new one: `python -m tests.golden.test_golden`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from azureml_jobs.identity.node_key import node_secret
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.identity.signed_admission import Admission, AdmissionAuthority, read_admission
from azureml_jobs.storage.base import Lease
from azureml_jobs.storage.folder_store import FolderStore
from azureml_jobs.storage.lease import lease_of, lease_record
from azureml_jobs.storage.pointer import follow, point
from client.context_state import state_mod
from client.node.state_store import SiloStateStore
from client.state_entry import decode_whole
from conf.compose import compose
from conf.errors import CheckpointError
from server.round.judgement import Admitted, Rejected
from server.run.checkpoint import RunState, decode, encode
from server.run.history import FILE as HISTORY
from server.run.history import History, Mark, read_lines
from server.run.ledger import Ledger
from server.run.result import Baseline, RoundRecord, RunResult, Scores
from server.run.verdict import FILE as LEDGER
from server.run.verdict import verify_file
from server.store.admitted_keys import AdmittedKeys
from server.store.layout import MARKER, claim
from server.store.run_queue import ENDED, REQUESTS, Outcome, Request, RunQueue
from strategies.wire import protocol

pytestmark = pytest.mark.usefixtures("task_identity")

HERE = Path(__file__).parent
NOW = 1_767_323_045.25
KEY = (
    "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBO2CN9/rMetmLJao"
    "aPZ2pA2oIVyWU0dBoOqaPerp3lmGu01+ADYoo1eGaeAvuYZBBu+q3MvvIfjw9KNMICWcKUPl+5Prvv6z/8rCwLrmeF"
    "6n+FQ4DxupM5AXdlVPSj6hXA=="
)
RECORDS = [
    RoundRecord(
        round=number,
        cohort=["north", "south"],
        replied=["north"],
        failed={"south": "no reply before the round closed"},
        codes={"south": "MDW-304"},
        seconds=2.5,
        seconds_training={"north": 1.25},
        seconds_waiting=0.5,
        bytes_up={"north": 24},
        bytes_down={"north": 24, "south": 24},
        train={"north": {"loss": 1.0 / number, "num-examples": 10.0}},
        metrics={"north": {"loss": 0.5, "accuracy": float("nan")}},
        aggregate={"loss": 0.5},
    )
    for number in (1, 2)
]


def checkpoint() -> RunState:
    weights = np.array([[1.5, -2.0, 0.25]], np.float32)
    return RunState(
        round=2,
        arrays=ArrayRecord({"w": Array(weights), "steps": Array(np.array(7, np.int64))}),
        strategy=RecordDict(
            {
                "momentum": ArrayRecord({"w": Array(weights * 2)}),
                "values": MetricRecord({"t": 2}),
                "names": ConfigRecord({"kind": "sgd"}),
            }
        ),
        early_stop={"best": 0.5, "since": 1},
        history=Mark(2, 1000, "ab" * 32),
        mlflow_run_id="mlflow-1",
        anchor="7:" + "cd" * 32,
        seconds=5.0,
    )


def result() -> RunResult:
    scores = Scores({"loss": 0.5}, {"north": {"loss": 0.5}})
    return RunResult(
        run_id="golden",
        mode="simulate",
        task="digits",
        strategy="fedavg",
        silos=["north", "south"],
        folder="outputs/golden",
        command="meadow simulate run.name=golden",
        status="finished",
        rounds=2,
        history=Mark(2, 1000, "ab" * 32).to_json(),
        failed={"south": 2},
        partition={"north": [1, 2]},
        classes=["zero", "one"],
        shown={"accuracy": "max", "loss": "min"},
        baseline=Baseline(scores, {"north": scores}, None, 1.5),
        final={"loss": 0.5},
        model={"path": "model/model.safetensors", "sha256": "ef" * 32, "digest": "01" * 32},
        environment={"versions": {"meadow": "0.1.0"}, "code": "23" * 32},
        config_digest="45" * 32,
        ledger="7:" + "cd" * 32,
        started="2026-01-02T03:04:05+00:00",
        seconds=5.0,
    )


def history_of(folder: Path) -> bytes:
    history = History(folder / HISTORY, Mark())
    for record in RECORDS:
        history.append(record)
    return (folder / HISTORY).read_bytes()


def ledger_of(folder: Path) -> bytes:
    with Ledger(folder / LEDGER, "golden", clock=lambda: NOW) as ledger:
        silos = ["north", "south"]
        ledger.run_started(
            federation="f", code="c0", tree="t0", config="c1", silos=silos, resumed=False
        )
        ledger.update(1, "north", Admitted(10, 0.5), "ab")
        ledger.update(1, "south", Rejected("MDW-614", "south: not finite."), "cd")
        ledger.round_closed(1, "ef", ["north"], history="12" * 32, privacy={"north": 1.5})
        ledger.run_finished("finished", "ef")
    return (folder / LEDGER).read_bytes()


def state_names() -> bytes:
    """Return the names under which a silo's state is kept after two rounds."""

    def app(message: Message, context: Context) -> Message:
        context.state["c"] = MetricRecord({"n": 1})
        return Message(RecordDict(), reply_to=message)

    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    for round in (1, 2):
        config = ConfigRecord({protocol.RUN_ID: "golden", protocol.ROUND: round})
        state_mod(Message(RecordDict({protocol.CONFIG: config}), 2, "train"), context, app)
    return json.dumps(list(context.state)).encode()


class _Signed(AdmissionAuthority):
    """Signs with what lies here: a signature of the CA is another each time."""

    def __init__(self) -> None:
        super().__init__(FolderSecrets(HERE), "golden")

    def sign(self, admission: Admission) -> str:
        return (HERE / "admission-1.pem").read_text()


def in_store(folder: Path, name: str) -> bytes:
    """Return what lies under a name in a store to which everything was done that writes one."""
    store = FolderStore(folder)
    claim(store)
    point(store, "checkpoints/latest.json", "checkpoints/x", "ab" * 32)
    queue = RunQueue(store, lambda: NOW)
    conf = compose(["run.name=golden"])
    request = queue.submit("golden", conf, "meadow submit")
    queue.ended(request, Outcome("failed", "MDW-401: too few.", 5, "outputs/golden"))
    keys = AdmittedKeys(store, lambda: NOW, _Signed())
    keys.admit("north", KEY)
    keys.revoke("north")
    found = next(one for one in store.list() if one.startswith(name))
    return store.read(found)


def silo_states(folder: Path, name: str) -> bytes:
    """Return what lies under a name in a silo's own storage after a round of an algorithm with a state."""
    states = SiloStateStore(lambda: FolderStore(folder), "north", lambda: NOW)
    weights = Array(np.array([1.5, -2.0], np.float32))
    records = {"1|golden|2|c": ArrayRecord({"w": weights}), "1|golden|2|n": MetricRecord({"t": 2})}
    states.keep("golden", 2, RecordDict({**records}))
    states.close()
    return (folder / "north" / name).read_bytes()


def request_of(folder: Path) -> bytes:
    """Return a request without its configuration, which is the schema's and not the queue's."""
    raw = json.loads(in_store(folder, REQUESTS))
    raw["conf"] = {"run": {"name": raw["conf"]["run"]["name"]}}
    return json.dumps(raw).encode()


LEASE = Lease("orchestrator", "host-1", 3, 7, 20.0, "boot:4026531836:1234:5678")
LEASE_OF_ONE = Lease("orchestrator", "host-1", 3, int(NOW * 1000))
"""As the first version is read, which had a time instead of a beat."""
WRITTEN: dict[str, Callable[[Path], bytes]] = {
    "checkpoint-2.safetensors": lambda folder: encode(checkpoint()),
    "history-1.jsonl": history_of,
    "result-2.json": lambda folder: result().to_json().encode(),
    "ledger-3.jsonl": ledger_of,
    "pointer-1.json": lambda folder: in_store(folder, "checkpoints/latest.json"),
    "lease-2.json": lambda folder: lease_record(LEASE),
    "store-1.json": lambda folder: in_store(folder, MARKER),
    "request-1.json": request_of,
    "outcome-1.json": lambda folder: in_store(folder, ENDED),
    "admitted-key-2.json": lambda folder: in_store(folder, AdmittedKeys.ADMITTED),
    "revoked-key-1.json": lambda folder: in_store(folder, AdmittedKeys.REVOKED),
    "silo-state-1.state": lambda folder: silo_states(folder, "runs/golden/round-000002.state"),
    "silo-runs-2.json": lambda folder: silo_states(folder, "runs.json"),
    "context-state-1.json": lambda folder: state_names(),
    "node-key-name-2.txt": lambda folder: node_secret("clinics", "north").encode(),
}
"""Each format by its golden file: its name, the version, and how this tree writes it."""


@pytest.mark.parametrize("name", WRITTEN)
def test_it_is_written_in_the_form_that_lies_here(name: str, tmp_path: Path) -> None:
    assert WRITTEN[name](tmp_path) == (HERE / name).read_bytes()


def golden(name: str) -> bytes:
    return (HERE / name).read_bytes()


def test_the_state_of_a_silo_is_read() -> None:
    entry, records = decode_whole(golden("silo-state-1.state"), "it")
    assert (entry.silo, entry.run, entry.round) == ("north", "golden", 2)
    assert records["1|golden|2|c"]["w"].numpy().tolist() == [1.5, -2.0]  # type: ignore[index,union-attr]
    assert dict(records["1|golden|2|n"]) == {"t": 2}


def test_the_checkpoint_is_read() -> None:
    read = decode(golden("checkpoint-2.safetensors"))
    made = checkpoint()
    assert read.arrays["w"].numpy().tolist() == [[1.5, -2.0, 0.25]]
    assert list(read.arrays) == ["w", "steps"]
    assert read.strategy.object_id == made.strategy.object_id
    for name in ("round", "early_stop", "history", "mlflow_run_id", "anchor", "seconds"):
        assert getattr(read, name) == getattr(made, name)


def test_the_history_is_read() -> None:
    read = list(read_lines(golden("history-1.jsonl").splitlines(), "golden"))
    assert [record.round for record in read] == [1, 2]
    assert read[0].metrics == {"north": {"loss": 0.5, "accuracy": None}}
    assert read[1].failed == RECORDS[1].failed


def test_the_result_is_read() -> None:
    assert RunResult.from_json(golden("result-2.json")) == result()


@pytest.mark.parametrize("name", ["ledger-2.jsonl", "ledger-3.jsonl"])
def test_the_ledger_is_read(name: str) -> None:
    verdict = verify_file(HERE / name)
    assert (verdict.lines, verdict.faults) == (5, [])


def test_a_ledger_of_the_version_before_is_continued(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    path.write_bytes(golden("ledger-2.jsonl"))
    with Ledger(path, "golden", clock=lambda: NOW) as ledger:
        ledger.run_started(
            federation="f", code="c0", tree="t0", config="c1", silos=["north"], resumed=True
        )
    verdict = verify_file(path)
    assert (verdict.lines, verdict.faults) == (6, [])
    last = json.loads(path.read_bytes().splitlines()[-1])
    assert (last["event"], last["version"]) == ("run resumed", 3)


def test_the_admission_is_read() -> None:
    limits = {"examples_at_most": 2000.0}
    until = NOW + 365 * 86400
    assert read_admission(golden("admission-1.pem"), "it") == Admission(
        "golden", "north", KEY, NOW, until, limits
    )


def test_the_records_of_a_store_are_read(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put_if_absent("checkpoints/latest.json", golden("pointer-1.json"))
    store.put_if_absent(MARKER, golden("store-1.json"))
    name = f"{int(NOW * 1000):014d}.golden"
    store.put_if_absent(REQUESTS + name, golden("request-1.json"))
    queue = RunQueue(store)
    conf = {"run": {"name": "golden"}}
    assert queue.next() == Request(name, "golden", conf, "meadow submit")
    store.put_if_absent(ENDED + name, golden("outcome-1.json"))
    assert queue.next() is None
    assert queue.outcome("golden") == Outcome("failed", "MDW-401: too few.", 5, "outputs/golden")
    assert lease_of(golden("lease-2.json"), "orchestrator", "x") == LEASE
    assert lease_of(golden("lease-1.json"), "orchestrator", "x") == LEASE_OF_ONE
    claim(store)


def damaged(data: bytes, version: int) -> bytes:
    """Return a JSON record with another version."""
    return json.dumps(json.loads(data) | {"version": version}).encode()


@pytest.mark.parametrize("version", [99, 0])
def test_a_record_of_another_version_is_refused_and_both_are_named(
    version: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refused = rf"MDW-505.*version {version};.*version 1\."
    store = FolderStore(tmp_path)
    name = f"{int(NOW * 1000):014d}.golden"
    for where, file in (
        ("checkpoints/latest.json", "pointer-1.json"),
        (MARKER, "store-1.json"),
        (REQUESTS + name, "request-1.json"),
    ):
        store.put_if_absent(where, damaged(golden(file), version))
    with pytest.raises(CheckpointError, match=refused):
        follow(store, "checkpoints/latest.json")
    with pytest.raises(CheckpointError, match=refused):
        claim(store)
    queue = RunQueue(store)
    with pytest.raises(CheckpointError, match=refused):
        queue.submit("other", compose([]))
    with pytest.raises(CheckpointError, match=refused):
        queue.outcome("golden")
    with pytest.raises(CheckpointError, match=refused.replace("version 1", "version 2")):
        lease_of(damaged(golden("lease-1.json"), version), "orchestrator", "x")
    # The orchestrator ends such a run instead of meeting it again at each start.
    assert queue.next() is None
    ended = json.loads(store.read(ENDED + name))
    assert (ended["status"], ended["exit"]) == ("failed", CheckpointError.exit_status)
    assert f"version {version}" in ended["reason"]
    assert "MDW-505" in caplog.text


if __name__ == "__main__":
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity._task_id = TaskIdentity._run_id = TaskIdentity._node_id = 1
    for target, write in WRITTEN.items():
        with tempfile.TemporaryDirectory() as temporary:
            (HERE / target).write_bytes(write(Path(temporary)))
