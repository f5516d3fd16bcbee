"""A listed silo that the run does not name receives no byte of the run's model or code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import PullObjectRequest
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

from conf.code_digest import release_digest, tree_listing
from server.orchestrator.packed_grid import PackedGrid
from server.orchestrator.service import Orchestrator
from tests.faults.federation import Federation, ask, model, total, until
from tests.faults.proxy import Proxy
from tests.security.caller import Caller

SIZE = 1_000_000
MODEL_BYTES = 3 * SIZE * 4
ROUNDS = 2
QUIET_BYTES = 100_000
"""More than handshakes, heartbeats and empty answers of some seconds take, and 1/240 of the rounds' models."""


@dataclass
class Scene:
    """Two silos at work, every byte to each of them counted; the open run names the first alone."""

    federation: Federation
    orchestrator: Orchestrator
    named: Proxy
    unnamed: Proxy

    def rounds(self, *silos: str) -> None:
        grid = PackedGrid(self.orchestrator.open_run("run", silos))
        for round in range(1, ROUNDS + 1):
            replies = grid.send_and_receive(ask(grid, round, model(SIZE, seed=round)), timeout=60)
            assert len(replies) == len(silos) and not any(reply.has_error() for reply in replies)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    federation = Federation(tmp_path)
    with federation.orchestrator() as orchestrator:
        one, two = Proxy(orchestrator.address), Proxy(orchestrator.address)
        try:
            with (
                federation.thread_node(one.address, federation.silos[0]),
                federation.thread_node(two.address, federation.silos[1]),
            ):
                orchestrator.wait_for(["silo-1", "silo-2"], 2, 30)
                yield Scene(federation, orchestrator, one, two)
        finally:
            one.close()
            two.close()


def test_on_the_wire_the_named_silo_gets_the_models_and_the_other_next_to_nothing(
    scene: Scene,
) -> None:
    scene.rounds("silo-1")
    assert scene.named.returned > ROUNDS * MODEL_BYTES
    assert 0 < scene.unnamed.returned < QUIET_BYTES
    scene.rounds("silo-1", "silo-2")
    assert scene.unnamed.returned > ROUNDS * MODEL_BYTES, "named, it gets them the same way"


def test_with_every_id_in_its_hand_it_is_refused_each_object_and_the_code(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = PackedGrid(scene.orchestrator.open_run("run", ["silo-1"]))
    fleet, run = scene.orchestrator._fleet, grid.run.run_id
    ids = grid.push_messages(ask(grid, 1, model(), sleep=3.0))
    asked = fleet.instructions.get(ids[0])
    objects = [node.object_id for node in iterate_object_tree(asked.tree)]
    assert len(objects) > 3, "the message, its records, an array and its chunk"
    insider = Caller.silo(scene.federation, scene.orchestrator.address, "silo-2")
    node = insider.node
    for id in objects:
        answer = insider.refused(
            "PullObject", PullObjectRequest(node=node, run_id=run, object_id=id)
        )
        assert (
            answer.startswith("PERMISSION_DENIED MDW-645") and "does not name this silo" in answer
        )
    code = hashlib.sha256(tree_listing()).hexdigest()
    for name, request in (
        ("GetRun", GetRunRequest(node=node, run_id=run)),
        ("GetFab", GetFabRequest(node=node, run_id=run, hash_str=code)),
    ):
        answer = insider.refused(name, request)
        assert "MDW-645" in answer and release_digest() not in answer
    # The question for work is answered at once; `over` would send the named silo home as well.
    monkeypatch.setattr("server.orchestrator.fleet.LONG_POLL_SECONDS", 0.0)
    assert not insider.call("PullMessages", PullMessagesRequest(node=node)).messages_list
    assert total(list(grid.replies(ids, 30))) == 3001


def test_a_run_that_goes_on_to_name_it_opens_nothing_of_the_one_before(scene: Scene) -> None:
    before = PackedGrid(scene.orchestrator.open_run("before", ["silo-1"]))
    old = before.run.run_id
    (id,) = before.push_messages(ask(before, 1, model(), sleep=3.0))
    scene.rounds("silo-1", "silo-2")
    insider = Caller.silo(scene.federation, scene.orchestrator.address, "silo-2")
    request = PullObjectRequest(node=insider.node, run_id=old, object_id=id)
    assert "MDW-645" in insider.refused("PullObject", request)
    until(lambda: scene.orchestrator._fleet.instructions.get(id) is None)
