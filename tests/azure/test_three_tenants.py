"""Three owners in three tenants: on a cluster, on Kubernetes, and with `identity: user`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from azureml_jobs.backends.base import ORCHESTRATOR
from azureml_jobs.jobs.snapshot import snapshot
from azureml_jobs.rehearsal.cloud import LoopbackCloud
from azureml_jobs.rehearsal.demands import Demands
from azureml_jobs.rehearsal.durations import AZURE
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
    "north": Owner("north", tenant(2)),
    "south": Owner("south", tenant(3), kubernetes=True),
    "west": Owner("west", tenant(4), by_user=True),
}


@pytest.fixture
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
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
        yield Rehearsal(cloud, folder, RUN, NAMES, tree, owners=OWNERS)
    os.environ.clear()
    os.environ.update(before)


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
    # Who is in another tenant is not let in: the answers say nothing of roles.
    assert not [line for line in request_log.requests if line.endswith(" 403")]
