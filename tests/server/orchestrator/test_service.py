"""The orchestrator and the node, over real gRPC with TLS and node keys on loopback."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg

from azureml_jobs.identity.node_key import make_node_key, node_secret
from conf.errors import IdentityError, SiloError
from server.orchestrator.packed_grid import PackedGrid
from server.orchestrator.service import Orchestrator
from tests.faults.federation import Federation, ask, model, total, until


def test_three_rounds_with_two_silos_in_their_own_processes(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    with federation.orchestrator() as orchestrator:
        first = federation.process_node(orchestrator.address, federation.silos[0])
        second = federation.process_node(orchestrator.address, federation.silos[1])
        with first as one, second as two:
            names = [silo.name for silo in federation.silos]
            assert orchestrator.wait_for(names, quorum=2, timeout=60) == names
            grid = PackedGrid(orchestrator.open_run("run", names))
            for round in (1, 2, 3):
                replies = grid.send_and_receive(ask(grid, round, model()), timeout=30)
                assert total(replies) == 3 * 1000 * (1 + 2) + 3
                assert [m.content["metrics"]["rounds-seen"] for m in replies] == [round, round]
            orchestrator.stop(over=True)
            assert (one.wait(10), two.wait(10)) == (0, 0)
            assert "the federation is over" in one.text()


def test_a_stock_strategy_runs_on_our_grid(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    with (
        federation.orchestrator() as orchestrator,
        federation.thread_node(orchestrator.address, federation.silos[0]),
        federation.thread_node(orchestrator.address, federation.silos[1]),
    ):
        orchestrator.wait_for(["silo-1", "silo-2"], 2, 20)
        grid = PackedGrid(orchestrator.open_run("run", ["silo-1", "silo-2"]))
        result = FedAvg(fraction_evaluate=0.0).start(grid, model(), num_rounds=3, timeout=60)
        expected = 3 * (10 * 1 + 11 * 2) / 21
        assert np.allclose(result.arrays["w0"].numpy(), expected)


def test_our_node_refuses_a_run_of_other_code_and_both_sides_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    federation = Federation(tmp_path, silos=1)
    with (
        federation.orchestrator() as orchestrator,
        federation.thread_node(orchestrator.address, federation.silos[0]),
    ):
        orchestrator.wait_for(["silo-1"], 1, 20)
        grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
        access = orchestrator._fleet.access
        assert access is not None
        orchestrator._fleet.access = replace(access, code=replace(access.code, digest="0" * 64))
        (reply,) = grid.send_and_receive(ask(grid, 1, model()), timeout=20)
        assert reply.error.reason.startswith("the silo says MDW-331 (our_release ")
        assert any(
            "refusing run" in r.getMessage() and "MDW-331" in r.getMessage() for r in caplog.records
        )


def test_a_run_that_can_not_start_names_the_missing(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    with (
        federation.orchestrator() as orchestrator,
        federation.thread_node(orchestrator.address, federation.silos[0]),
    ):
        with pytest.raises(SiloError, match=r"MDW-330: 1 of the 2 silos .* missing: silo-2"):
            orchestrator.wait_for(["silo-1", "silo-2"], 2, 1.5)
        assert orchestrator.wait_for(["silo-1", "silo-2"], 1, 1.5) == ["silo-1"]
        with pytest.raises(SiloError, match="MDW-332"):
            orchestrator.open_run("run", ["silo-1", "stranger"])


def test_while_it_settles_all_silos_are_waited_for_and_then_a_quorum_will_do(
    tmp_path: Path,
) -> None:
    federation = Federation(tmp_path)
    both = ["silo-1", "silo-2"]
    with (
        federation.orchestrator() as orchestrator,
        federation.thread_node(orchestrator.address, federation.silos[0]),
    ):
        began = time.monotonic()
        assert orchestrator.wait_for(both, 1, 20.0, settle=1.5) == ["silo-1"]
        assert time.monotonic() - began >= 1.5
        with federation.thread_node(orchestrator.address, federation.silos[1]):
            assert orchestrator.wait_for(both, 1, 20.0, settle=20.0) == both
    assert time.monotonic() - began < 20.0


def test_a_taken_port_and_a_bad_address_are_one_line_and_nothing_is_left_running(
    tmp_path: Path,
) -> None:
    federation = Federation(tmp_path)
    threads = threading.active_count()
    with federation.orchestrator() as orchestrator:
        for address in (
            orchestrator.address,
            "127.0.0.1",
            "no-such-host.invalid:1",
            "127.0.0.1:port",
        ):
            second = Orchestrator(address, federation.credentials(), federation.public)
            with pytest.raises(IdentityError, match="MDW-750"):
                second.start()
            second.stop()
    until(lambda: threading.active_count() <= threads + 1)


def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    mixed = replace(federation.credentials(), key=federation.credentials().key)
    with pytest.raises(IdentityError, match="MDW-751"):
        Orchestrator("127.0.0.1:0", mixed, federation.public).start()


@pytest.mark.parametrize("key", [b"nonsense", b"", b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ"])
def test_a_public_key_that_can_not_be_used_is_refused(tmp_path: Path, key: bytes) -> None:
    federation = Federation(tmp_path)
    with pytest.raises(IdentityError, match="MDW-740"):
        Orchestrator("127.0.0.1:0", federation.credentials(), {"silo-1": key})


def test_a_silo_whose_key_is_changed_takes_part_with_the_new_one_in_the_same_run(
    tmp_path: Path,
) -> None:
    federation = Federation(tmp_path, silos=1)
    with federation.orchestrator() as orchestrator:
        with federation.thread_node(orchestrator.address, federation.silos[0]):
            orchestrator.wait_for(["silo-1"], 1, 20)
            grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
            old = federation.public["silo-1"]
            federation.secrets.delete(node_secret("federation", "silo-1"))
            new = make_node_key(federation.secrets, "federation", "silo-1").encode()
            federation.public["silo-1"] = new
            orchestrator.admit_key("silo-1", new)
        with federation.thread_node(orchestrator.address, federation.silos[0]):
            orchestrator.revoke_key(old)
            until(lambda: grid.get_node_ids())
            assert list(grid.names().values()) == ["silo-1"]
            assert total(grid.send_and_receive(ask(grid, 1, model()), timeout=20)) == 3001
