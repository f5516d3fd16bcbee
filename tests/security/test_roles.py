"""Who may ask for a run can neither admit a silo, nor read results, nor stop the orchestrator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from azureml_jobs.identity.authority import CA_CERTIFICATE, make_ca
from azureml_jobs.identity.node_key import fresh_node_key
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.identity.signed_admission import AdmissionAuthority
from azureml_jobs.storage.base import Store
from conf.compose import compose
from conf.errors import ConfigError
from conf.federation_folder import FederationFolder
from server.orchestrator.backends import store_in
from server.store.admitted_keys import AdmittedKeys
from server.store.run_queue import REQUESTS, Outcome, Request, RunQueue

ROOT = Path(__file__).parents[2]
SUBMITTER = 4711
"""A user of this machine without rights."""


@pytest.fixture
def folder(tmp_path: Path) -> FederationFolder:
    made = FederationFolder(tmp_path / "hospitals")
    made.path.mkdir()
    return made


@pytest.fixture
def store(folder: FederationFolder) -> Store:
    return store_in(folder)


def _record(**changes: Any) -> dict[str, Any]:
    plain = asdict(compose([]))
    return {
        "format": 1,
        "name": "00000000000001.a",
        "run_id": "a",
        "conf": plain,
        "command": "meadow submit",
    } | changes


def _put(store: Store, record: dict[str, Any], name: str = "00000000000001.a") -> None:
    honest = RunQueue(store)
    request = honest.submit("honest", compose([]))
    stamp = {
        key: value
        for key, value in json.loads(store.read(REQUESTS + request.name)).items()
        if key not in _record()
    }
    store.put_if_absent(REQUESTS + name, json.dumps({**record, **stamp}).encode())


HOSTILE: dict[str, dict[str, Any]] = {
    "the name of another's request": {"name": "00000000000001.b"},
    "a name that leads out": {"name": "../../x"},
    "an id that leads out": {"run_id": "../../etc"},
    "an absolute id": {"run_id": "/etc"},
    "no id": {"run_id": ""},
    "no configuration": {"conf": None},
    "a list as configuration": {"conf": [1]},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_request_that_says_another_name_than_its_own_ends_alone(store: Store, case: str) -> None:
    _put(store, _record(**HOSTILE[case]))
    queue = RunQueue(store)
    taken = queue.next()
    assert taken is not None and taken.run_id == "honest"
    queue.ended(taken, Outcome("finished"))
    assert queue.next() is None


@pytest.mark.parametrize("name", ["a b", "x\n", "\udcff", "..", "-x"])
def test_a_request_under_a_name_that_nobody_can_ask_for_is_not_looked_at(
    folder: FederationFolder, store: Store, name: str
) -> None:
    """The orchestrator used to end over it, and again at each start."""
    queue = RunQueue(store)
    queue.submit("honest", compose([]))
    requests = folder.place("queue") / "requests"
    if name != "..":
        with open(os.fsencode(requests) + b"/0" + os.fsencode(name), "wb"):
            pass
    (requests / "00000000000000.dir").mkdir()
    taken = queue.next()
    assert taken is not None and taken.run_id == "honest"


def test_a_pipe_a_link_and_a_giant_among_the_requests_end_alone(
    folder: FederationFolder, store: Store
) -> None:
    queue = RunQueue(store)
    queue.submit("honest", compose([]))
    requests = folder.place("queue") / "requests"
    os.mkfifo(requests / "00000000000000.a")
    (requests / "00000000000000.b").symlink_to("/etc/passwd")
    with (requests / "00000000000000.c").open("wb") as file:
        file.truncate(1 << 33)
    taken = queue.next()
    assert taken is not None and taken.run_id == "honest"
    for run in "abc":
        with pytest.raises(Exception, match="MDW-517"):
            queue.outcome(run)
        ended = json.loads(store.read(f"queue/ended/00000000000000.{run}"))
        assert ended["status"] == "failed"
        assert "root:" not in ended["reason"]


def test_a_request_says_nothing_of_where_code_is_imported_from(
    store: Store, tmp_path: Path
) -> None:
    evil = tmp_path / "evil.py"
    evil.write_text("raise SystemExit('it ran')\n")
    for group in ("task", "model", "strategy"):
        conf = asdict(compose([]))
        conf[group] = {
            "name": "evil.Evil",
            "target": f"{evil}:Evil",
            "code": "0" * 64,
            "args": {},
        }
        request = _request(conf)
        with pytest.raises(ConfigError) as caught:
            request.checked()
        assert caught.value.code in ("MDW-115", "MDW-101", "MDW-102")


def _request(conf: dict[str, Any]) -> Request:
    return Request("1.a", "a", conf)


WRAPPED = "flwr.serverapp.strategy.DifferentialPrivacyServerSideFixedClipping"


@pytest.mark.parametrize("deep", [1, 3])
def test_a_class_in_an_argument_is_the_owner_s_to_allow(deep: int) -> None:
    args: dict[str, Any] = {"strategy": {"target": "antigravity.Fly"}}
    for _ in range(deep - 1):
        args = {"strategy": {"target": WRAPPED, "args": args}}
    conf = asdict(compose([f"strategy.target={WRAPPED}"]))
    conf["strategy"]["target"] = ""
    conf["strategy"]["args"] = args
    with pytest.raises(ConfigError, match=r"MDW-115.*antigravity\.Fly"):
        _request(conf).checked()
    assert "antigravity" not in sys.modules
    _request(conf).checked(["antigravity.Fly"])
    args = {"strategy": {"target": "flwr.serverapp.strategy.FedAvg"}}
    conf["strategy"]["args"] = args
    _request(conf).checked()


def test_whoever_may_ask_for_a_run_admits_nobody(folder: FederationFolder, store: Store) -> None:
    """Not from the place of the requests, and not by an entry without the CA's signature."""
    secrets = FolderSecrets(folder.keys)
    make_ca(secrets, "hospitals", datetime.now(UTC))
    ca = secrets.get(CA_CERTIFICATE)
    owner = AdmittedKeys(store, time.time, AdmissionAuthority(secrets, "hospitals"), ca)
    _, honest = fresh_node_key()
    owner.admit("north", honest)
    thief = FolderSecrets(folder.path / "thief")
    make_ca(thief, "hospitals", datetime.now(UTC))
    _, stolen = fresh_node_key()
    elsewhere = store_in(FederationFolder(folder.path / "elsewhere"))
    AdmittedKeys(elsewhere, time.time, AdmissionAuthority(thief, "hospitals")).admit("x", stolen)
    (entry,) = elsewhere.list("keys/admitted/")
    content = elsewhere.read(entry)
    # The places of a submitter, and even that of the keys.
    store.put_if_absent("queue/requests/" + entry.rpartition("/")[2], content)
    store.put_if_absent("queue/cancelled/" + entry.rpartition("/")[2], content)
    assert list(owner.current().values()) == ["north"]
    store.put_if_absent(entry, content)
    assert list(owner.current().values()) == ["north"]


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that other users may go through: those of pytest are their owner's alone."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o711)
        yield Path(made)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user of this machine")
def test_a_submitter_with_an_account_of_their_own_writes_and_reads_nothing_else(
    shared_folder: Path,
) -> None:
    base = shared_folder
    folder = FederationFolder(base / "hospitals")
    folder.path.mkdir(mode=0o711)
    queue = folder.place("queue")
    queue.mkdir()
    os.chown(queue, 0, SUBMITTER)
    queue.chmod(0o2770)
    store = store_in(folder)
    store.put_if_absent("keys/admitted/x.json", b"admitted")
    store.put_if_absent("results/a/result.json", b"result")
    store.put_if_absent("runs/a/model", b"model")
    store.put_if_absent("store.json", b"")
    code = f"""
import os, sys
from pathlib import Path
from conf.errors import CheckpointError
from conf.federation_folder import FederationFolder
from server.orchestrator.backends import store_in
os.setgroups([])
os.setgid({SUBMITTER})
os.setuid({SUBMITTER})
store = store_in(FederationFolder(Path({str(folder.path)!r})))
store.put_if_absent("queue/requests/1.a", b"mine")
for name in ("keys/admitted/y.json", "queue/ended/1.a", "results/a/x", "runs/a/x"):
    for act in (lambda: store.replace(name, b""), lambda: store.read(name)):
        try:
            act()
        except CheckpointError as error:
            assert error.code == "MDW-514", error
        else:
            raise SystemExit(f"{{name}} was let in")
for prefix in ("keys/", "results/", "runs/"):
    try:
        found = store.list(prefix)
    except CheckpointError as error:
        assert error.code == "MDW-514", error
    else:
        assert found == [], found
print("kept out")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "kept out\n", done.stderr
    assert store.read("queue/requests/1.a") == b"mine"
