"""Three owners in three tenants: on a cluster, on Kubernetes, and with `identity: user`.

They reach the server at a fixed address, as with a private link, or over a relay: then nobody is
reached by anybody, each dials out on 443, and one is behind a proxy that asks for a password.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator

import pytest

from azureml_jobs.backends.base import ORCHESTRATOR
from azureml_jobs.jobs.snapshot import snapshot
from azureml_jobs.rehearsal.cloud import LoopbackCloud
from azureml_jobs.rehearsal.demands import Demands
from azureml_jobs.rehearsal.durations import AZURE
from azureml_jobs.rehearsal.executor import Job
from azureml_jobs.rehearsal.networks import can_isolate
from azureml_jobs.rehearsal.owners import Owner
from azureml_jobs.rehearsal.rehearse import FACTOR, NAMES, Rehearsal, vaults
from server.run.history import read_history

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not can_isolate(), reason="no network namespaces here"),
]
RUN = ["task=digits", "model.hidden=[16]", "run.rounds=2", "run.quorum=3"]


def tenant(number: int) -> str:
    """Return a tenant's id of one digit."""
    digit = str(number)
    return "-".join(digit * length for length in (8, 4, 4, 4, 12))


OWNERS = {
    "north": Owner("north", tenant(2), proxied=True),
    "south": Owner("south", tenant(3), kubernetes=True),
    "west": Owner("west", tenant(4), by_user=True),
}


@pytest.fixture(params=["by address", "by relay"])
def rehearsal(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Rehearsal]:
    if shutil.which("node") is None:
        pytest.skip("Azurite needs Node, and there is none on this machine")
    before = dict(os.environ)
    for name in before:
        if name.startswith(("AZURE", "MLFLOW_")) or name.lower().endswith("_proxy"):
            del os.environ[name]
    folder = tmp_path_factory.mktemp("tenants")
    demands = Demands(durations=AZURE.shortened(FACTOR))
    with LoopbackCloud(folder / "cloud", ["hub", *NAMES], vaults(), demands) as cloud:
        tree = folder / "tree"
        snapshot(tree, {})
        relayed = cloud.relay(folder) if request.param == "by relay" else None
        owners = OWNERS if relayed else {**OWNERS, "north": Owner("north", tenant(2))}
        made = Rehearsal(cloud, folder, RUN, NAMES, tree, owners=owners, relayed=relayed)
        yield made
        if relayed is not None:
            relayed.stop()
    os.environ.clear()
    os.environ.update(before)


def log_of(job: Job) -> str:
    return "".join(path.read_text(errors="replace") for path in job.logs().values())


def test_a_run_with_owners_in_three_tenants_of_whom_none_has_a_right_in_another(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.build()
    rehearsal.make_keys()
    rehearsal.check()
    for part in (ORCHESTRATOR, *NAMES):
        rehearsal.launch(part)
    rehearsal.submit("first")
    outcome = rehearsal.wait("first")
    logs = rehearsal.cloud.folder.glob("jobs/*/user_logs/*")
    assert outcome.status == "finished", [path.read_text()[-2000:] for path in logs]
    folder = rehearsal.download("first", rehearsal.folder / "outputs")
    records = list(read_history(folder))
    assert [sorted(record.replied) for record in records] == [sorted(NAMES)] * 2
    request_log = rehearsal.cloud.request_log
    assert (request_log.refused(), request_log.outbound, request_log.unrouted) == ([], [], [])
    for name in NAMES:
        for identity in (f"{name}/gpu-{name}", OWNERS[name].name):
            resources = request_log.resources_of(identity)
            assert all(name in resource for resource in resources), (identity, resources)
    if rehearsal.relayed is not None:
        assert not rehearsal.cloud.networks._peered
        said = rehearsal.relayed.log.read_text()
        assert rehearsal.relayed.password not in said
        for job in rehearsal.cloud.executor.jobs.values():
            assert rehearsal.relayed.password not in json.dumps(job.resource) + log_of(job)
    # Who is in another tenant is not let in: the answers say nothing of roles.
    assert not [line for line in request_log.requests if line.endswith(" 403")]
