"""What would fail later is told now, line by line with what to do about it, and only to whom it belongs."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from azureml_jobs.backends.workspace import Compute
from azureml_jobs.identity.admitted_key import AdmittedKey
from azureml_jobs.identity.authority import make_ca
from azureml_jobs.identity.node_key import fresh_node_key, make_node_key, node_secret
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.preflight.checks import Sources, check
from azureml_jobs.preflight.findings import ERROR, OK, WARNING, Finding, Table
from conf.compose import compose
from conf.errors import AzureError, CheckpointError
from conf.schema import Conf, InputConf, WorkspaceConf

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"


def compute(name: str, *identities: str) -> Compute:
    return Compute(name, "amlcompute", "Standard_NC6s_v3", 2, (), identities, "here")


class FakeWorkspace:
    """A workspace in which everything is there, unless `gone` names it."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        world.asked.append(name)

    def tracking_uri(self) -> str:
        return self._there("tracking")

    def compute(self, name: str) -> Compute:
        self._there(name)
        return self.world.computes.get(name, compute(name, "its own identity"))

    def container(self, datastore: str) -> str:
        return f"https://flhub.blob.core.windows.net/{self._there(datastore)}"

    def asset(self, name: str, version: str) -> str:
        self._there(f"{name}:{version}")
        return self.world.assets.get(name, "azureml://datastores/north/paths/asset/")

    def content(self, datastore: str, path: str, *, file: bool) -> str:
        self._there(datastore)
        if self.world.unseen:
            raise AzureError(self.world.unseen, f"This identity may not use {path}.", "Grant it.")
        return self._there(path)

    def gpus_of(self, size: str, location: str) -> int | None:
        return self.world.gpus

    def cores_left(self, size: str, location: str) -> int | None:
        return self.world.cores

    def _there(self, what: str) -> str:
        if what in self.world.gone:
            raise AzureError("MDW-802", f"There is no {what} in {self.name}.", "Make it.")
        return what


class World:
    """Two silos and an orchestrator in good order, and what a test puts out of order."""

    def __init__(self, folder: Path) -> None:
        self.gone: set[str] = set()
        self.computes: dict[str, Compute] = {}
        self.cores: int | None = 100
        self.gpus = 1
        self.assets: dict[str, str] = {}
        self.unseen = ""
        self.asked: list[str] = []
        self.containers: list[str] = []
        self.vaults = {
            name: FolderSecrets(folder / name) for name in ("kv-hub", "kv-north", "kv-south")
        }
        make_ca(self.vaults["kv-hub"], "hospitals", NOW)
        since, until = (
            (NOW - timedelta(days=1)).timestamp(),
            (NOW + timedelta(days=300)).timestamp(),
        )
        self.keys = [
            AdmittedKey(
                silo, make_node_key(self.vaults[f"kv-{silo}"], "hospitals", silo), since, until
            )
            for silo in ("north", "south")
        ]

    def sources(self) -> Sources:
        def vault(name: str) -> FolderSecrets:
            self.asked.append(name)
            return self.vaults[name]

        def workspace(conf: WorkspaceConf) -> FakeWorkspace:
            return FakeWorkspace(self, conf.name)

        def container(address: str) -> str:
            if address in self.gone:
                raise CheckpointError(
                    "MDW-515", f"There is no container for {address}.", "Make it."
                )
            self.containers.append(address)
            return address

        return Sources(workspace, vault, lambda: self.keys, container, NOW.timestamp)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def conf() -> Conf:
    conf = compose(["federation.silos={north:{},south:{}}", "federation.name=hospitals"])
    own = conf.federation.orchestrator
    own.workspace, own.compute = WorkspaceConf(SUBSCRIPTION, "meadow", "hub"), "cpu"
    own.datastore, own.key_vault = "federation", "kv-hub"
    for name, silo in conf.federation.silos.items():
        silo.workspace, silo.compute = WorkspaceConf(SUBSCRIPTION, "meadow", name), f"gpu-{name}"
        silo.key_vault, silo.gpus = f"kv-{name}", 1
        silo.input = InputConf(path=f"azureml://datastores/{name}/paths/xray/")
    return conf


def wrong(table: Table) -> list[tuple[str, str, str]]:
    return [(row.part, row.check, row.state) for row in table.rows if row.state != OK]


def test_a_federation_in_good_order_has_no_wrong_line(conf: Conf, world: World) -> None:
    table = check(conf, "all", world.sources())
    assert wrong(table) == []
    assert {row.part for row in table.rows} == {"orchestrator", "north", "south"}
    table.refuse()


def test_each_container_of_the_store_is_looked_into(conf: Conf, world: World) -> None:
    own = "https://flhub.blob.core.windows.net/federation"
    conf.federation.orchestrator.store = own
    check(conf, "orchestrator", world.sources())
    assert world.containers == [own, *(f"{own}-{r}" for r in ("queue", "admissions", "results"))]
    world.gone.add(f"{own}-queue")
    table = check(conf, "orchestrator", world.sources())
    assert wrong(table) == [("orchestrator", "container queue", ERROR)]
    # A silo's owner has no right there, and is not asked for one.
    world.containers.clear()
    check(conf, "silo:north", dataclasses.replace(world.sources(), keys=None))
    assert world.containers == []


def test_each_role_asks_only_for_what_is_its_own(conf: Conf, world: World) -> None:
    check(conf, "silo:north", dataclasses.replace(world.sources(), keys=None))
    assert set(world.asked) == {"north", "kv-north"}
    world.asked.clear()
    check(conf, "orchestrator", world.sources())
    assert set(world.asked) == {"hub", "kv-hub"}


def no_identity(conf: Conf, world: World) -> None:
    world.computes["gpu-north"] = compute("gpu-north")


def several_gpus(conf: Conf, world: World) -> None:
    conf.federation.silos["north"].gpus = 4


def no_gpu(conf: Conf, world: World) -> None:
    world.gpus = 0
    conf.federation.silos["south"].gpus = 0


def too_many_nodes(conf: Conf, world: World) -> None:
    conf.federation.silos["north"].nodes = 3


def other_instance_type(conf: Conf, world: World) -> None:
    conf.federation.silos["north"].instance_type = "huge"


def missing_compute(conf: Conf, world: World) -> None:
    world.gone.add("gpu-north")


def missing_datastore(conf: Conf, world: World) -> None:
    world.gone.add("north")


def empty_data(conf: Conf, world: World) -> None:
    conf.federation.silos["north"].input = InputConf(path="azureml://datastores/north/paths/empty/")
    world.gone.add("empty/")


def missing_asset(conf: Conf, world: World) -> None:
    conf.federation.silos["north"].input = InputConf(path="azureml:xray:3")
    world.gone.add("xray:3")


def asset_without_version(conf: Conf, world: World) -> None:
    conf.federation.silos["north"].input = InputConf(path="azureml:xray")


def others_asset(conf: Conf, world: World) -> None:
    conf.federation.silos["north"].input = InputConf(path="azureml:xray:3")
    world.assets["xray"] = (
        f"azureml://subscriptions/{SUBSCRIPTION}/resourcegroups/meadow/workspaces/south/datastores/d/paths/p/"
    )


def unknown_binding(conf: Conf, world: World) -> None:
    conf.federation.orchestrator.key_vault = "kv-hub${{inputs.secret}}"
    world.vaults["kv-hub${{inputs.secret}}"] = world.vaults["kv-hub"]


def unreachable(conf: Conf, world: World) -> None:
    world.gone.add("tracking")


def missing_key(conf: Conf, world: World) -> None:
    world.vaults["kv-north"].delete(node_secret("hospitals", "north"))


def not_admitted(conf: Conf, world: World) -> None:
    world.keys = [key for key in world.keys if key.silo != "north"]


def expired(conf: Conf, world: World) -> None:
    world.keys[0] = dataclasses.replace(world.keys[0], expires=NOW.timestamp() - 1)


def shared_vault(conf: Conf, world: World) -> None:
    world.vaults["kv-north"].set(node_secret("hospitals", "south"), fresh_node_key()[0])
    conf.federation.silos["south"].key_vault = "KV-North"
    world.vaults["KV-North"] = world.vaults["kv-north"]


def others_workspace_data(conf: Conf, world: World) -> None:
    conf.federation.silos["north"].input = InputConf(
        path="azureml://subscriptions/s/workspaces/south/datastores/south"
    )


def no_vault(conf: Conf, world: World) -> None:
    conf.federation.silos["north"].key_vault = None


@pytest.mark.parametrize(
    ("change", "place", "what", "security"),
    [
        (no_identity, "north", "identity", True),
        (several_gpus, "north", "GPUs", False),
        (no_gpu, "north", "GPUs", False),
        (too_many_nodes, "north", "nodes", False),
        (other_instance_type, "north", "instance type", False),
        (missing_compute, "north", "compute", False),
        (missing_datastore, "north", "data", False),
        (missing_key, "north", "node key", True),
        (not_admitted, "north", "admitted", True),
        (expired, "north", "admitted", True),
        (shared_vault, "south", "key vault", True),
        (others_workspace_data, "north", "data", False),
        (empty_data, "north", "data", False),
        (missing_asset, "north", "data", False),
        (asset_without_version, "north", "data", False),
        (others_asset, "north", "data", False),
        (unknown_binding, "orchestrator", "job", False),
        (no_vault, "north", "job", False),
    ],
)
def test_what_is_wrong_is_one_line_with_a_way_out(
    conf: Conf,
    world: World,
    change: Callable[[Conf, World], None],
    place: str,
    what: str,
    security: bool,
) -> None:
    change(conf, world)
    table = check(conf, "all", world.sources())
    assert wrong(table) == [(place, what, ERROR)]
    assert table.errors[0].fix and table.errors[0].security == security
    assert any(line.strip().startswith("-> ") for line in table.lines())
    with pytest.raises(AzureError, match=f"MDW-813.*{place}, {what}"):
        table.refuse()


def test_a_workspace_that_is_not_reached_is_told_of_each(conf: Conf, world: World) -> None:
    unreachable(conf, world)
    assert wrong(check(conf, "all", world.sources())) == [
        (place, "workspace", ERROR) for place in ("orchestrator", "north", "south")
    ]


def test_a_used_up_quota_and_a_key_near_its_end_warn(conf: Conf, world: World) -> None:
    world.cores = 0
    world.keys[0] = dataclasses.replace(
        world.keys[0], since=NOW.timestamp() - 300 * 86400, expires=NOW.timestamp() + 5 * 86400
    )
    table = check(conf, "all", world.sources())
    assert ("north", "admitted", WARNING) in wrong(table) and ("north", "quota", WARNING) in wrong(
        table
    )
    assert table.errors == []


@pytest.mark.parametrize("code", ["MDW-800", "MDW-801"])
def test_data_that_the_caller_can_t_see_is_a_warning(conf: Conf, world: World, code: str) -> None:
    world.unseen = code
    table = check(conf, "silo:north", dataclasses.replace(world.sources(), keys=None))
    assert wrong(table) == [("north", "data", WARNING)]
    assert any("The job's identity reads it" in line for line in table.lines())


def test_an_asset_at_an_address_of_its_own_is_not_looked_into(conf: Conf, world: World) -> None:
    world.assets["xray"] = "https://north.blob.core.windows.net/xray/"
    conf.federation.silos["north"].input = InputConf(path="azureml:xray:3")
    assert wrong(check(conf, "silo:north", world.sources())) == [("north", "data", WARNING)]


def test_the_table_says_as_whom_the_job_acts_and_as_whom_it_was_seen(
    conf: Conf, world: World
) -> None:
    world.computes["gpu-north"] = compute("gpu-north", "reader, client id 1", "writer, client id 2")
    rows = {(row.part, row.check): row for row in check(conf, "all", world.sources()).rows}
    identity = rows["south", "identity"]
    assert identity.state == OK and "seen with your identity" in identity.seen
    assert (
        rows["north", "identity"].state == WARNING
        and "client id 2" in rows["north", "identity"].seen
    )
    conf.federation.silos["south"].identity = "user"
    assert ("south", "identity") not in {
        (row.part, row.check) for row in check(conf, "all", world.sources()).rows
    }


def test_a_fixed_address_is_tried_from_here(conf: Conf, world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        conf.federation.orchestrator.address = f"127.0.0.1:{server.getsockname()[1]}"
        table = check(conf, "all", world.sources())
    assert wrong(table) == []
    seen = [row.seen for row in table.rows if row.check == "reach"]
    assert len(seen) == 3 and all(
        f"seen from this machine, {socket.gethostname()}" in one for one in seen
    )
    table = check(conf, "silo:north", dataclasses.replace(world.sources(), keys=None))
    assert wrong(table) == [("north", "reach", WARNING)]
    assert any("A job has another network" in line for line in table.lines())


def test_an_address_that_is_none_is_told_and_not_tried(conf: Conf, world: World) -> None:
    conf.federation.orchestrator.address = "https://fl.example.org"
    table = check(conf, "orchestrator", world.sources())
    assert ("orchestrator", "address", ERROR) in wrong(table) and "reach" not in {
        row.check for row in table.rows
    }


@pytest.mark.parametrize("listen", ["localhost:9092", "127.0.0.1:9092", "[::1]:9092", "0.0.0.0:0"])
def test_a_job_that_nobody_can_reach_is_told(conf: Conf, world: World, listen: str) -> None:
    conf.federation.orchestrator.listen = listen
    assert wrong(check(conf, "orchestrator", world.sources())) == [
        ("orchestrator", "listen", WARNING)
    ]


def test_a_port_of_this_machine_that_is_taken_is_told(conf: Conf, world: World) -> None:
    conf.federation.orchestrator.workspace = None
    with socket.create_server(("127.0.0.1", 0)) as server:
        conf.federation.orchestrator.listen = f"127.0.0.1:{server.getsockname()[1]}"
        assert ("orchestrator", "listen", WARNING) in wrong(
            check(conf, "orchestrator", world.sources())
        )
    assert ("orchestrator", "listen", WARNING) not in wrong(
        check(conf, "orchestrator", world.sources())
    )


def test_a_ca_near_its_end_warns_and_one_past_it_is_an_error(conf: Conf, world: World) -> None:
    (row,) = [row for row in check(conf, "orchestrator", world.sources()).rows if row.check == "CA"]
    ends = datetime.strptime(row.seen, "until %Y-%m-%d").replace(tzinfo=UTC)
    for days, state in ((5, WARNING), (-2, ERROR)):
        then = (ends - timedelta(days=days)).timestamp
        sources = dataclasses.replace(world.sources(), clock=then)
        assert [
            row.state for row in check(conf, "orchestrator", sources).rows if row.check == "CA"
        ] == [state]


def test_a_long_list_of_errors_is_shortened_in_the_refusal() -> None:
    table = Table([Finding("north", f"check {i}", ERROR, "bad") for i in range(5)])
    with pytest.raises(AzureError, match=r"check 2.*\(and 2 more\)"):
        table.refuse()
