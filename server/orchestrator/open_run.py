"""One run of an orchestrator: what Flower calls a run, the nodes that take part, and the grid that
asks them.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from flwr.common.constant import SUPERLINK_NODE_ID, Status
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.run import Run, RunStatus
from flwr.supercore.task_identity import TaskIdentity

from conf.code_digest import tree_listing
from server.orchestrator.fleet import Fleet, RunAccess
from server.orchestrator.orchestrator_grid import OrchestratorGrid
from strategies.wire.run_code import RunCode

RUN_ID_BITS: Final = 62
"""Records hold signed integers of 64 bits."""
TASK_ID: Final = 1
"""Flower counts the processes of a run; an orchestrator is the one of its own."""


class OpenRun:
    """A run from the moment in which its nodes may ask for it until it is closed; one at a time in
    a process.
    """

    def __init__(
        self, fleet: Fleet, nodes: Mapping[int, str], code: RunCode, bundle: bytes | None
    ) -> None:
        """`nodes` are those that take part, with their silos; without `bundle` it is the listing of
        this tree.
        """
        self._fleet = fleet
        self._nodes = dict(nodes)
        self._code = code
        self._bundle = bundle or tree_listing()
        run = describe(self._bundle, *name_and_version(bundle))
        self._run = run
        # Flower's Message takes from here which run it belongs to, and who sends it.
        TaskIdentity.run_id = run.run_id
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        TaskIdentity.task_id = TASK_ID
        self.grid = OrchestratorGrid(fleet, run, self._nodes)
        self._allow()

    @property
    def silos(self) -> set[str]:
        """The names of the silos that take part."""
        return set(self._nodes.values())

    def add(self, node: int, silo: str) -> None:
        """Let another node of a silo take part."""
        self._nodes[node] = silo
        self.grid.add(node, silo)
        self._allow()

    def close(self) -> None:
        """End the run and free everything it holds."""
        with self._fleet.changed:
            self._fleet.access = None
            self._fleet.instructions.forget_run(self._run.run_id)
            self._fleet.changed.notify_all()

    def _allow(self) -> None:
        with self._fleet.changed:
            self._fleet.access = RunAccess(
                self._run, frozenset(self._nodes), self._code, self._bundle
            )
            self._fleet.changed.notify_all()


def describe(bundle: bytes, name: str, version: str) -> Run:
    """Return a new run as Flower describes one to its nodes: its id is drawn, everything else is
    for show.
    """
    started = datetime.now(UTC).isoformat()
    empty = Run.create_empty(secrets.randbits(RUN_ID_BITS) + 1)
    return replace(
        empty,
        fab_id=name,
        fab_version=version,
        fab_hash=hashlib.sha256(bundle).hexdigest(),
        pending_at=started,
        starting_at=started,
        running_at=started,
        status=RunStatus(Status.RUNNING, "", ""),
        federation_id=NOOP_FEDERATION_ID,
        primary_task_id=TASK_ID,
    )


def name_and_version(bundle: bytes | None) -> tuple[str, str]:
    """Return the app's id and version out of the pyproject.toml in a Flower app bundle (a zip
    file).
    """
    if bundle is None:
        return "meadow/meadow-federated", "0"
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        project = tomllib.loads(archive.read("pyproject.toml").decode())
    publisher = project["tool"]["flwr"]["app"]["publisher"]
    return f"{publisher}/{project['project']['name']}", str(project["project"]["version"])
