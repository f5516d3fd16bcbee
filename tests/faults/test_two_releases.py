"""Two releases side by side: a federation is upgraded silo by silo, where the silos' owners accept it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from conf.code_digest import FRONT, PACKAGES, release_digest, run_files
from conf.schema import PolicyConf
from server.orchestrator.packed_grid import PackedGrid
from tests.faults.federation import ROOT, Federation, ask, model

FILES = run_files("digits", "mlp", "fedavg")


@pytest.fixture
def another_release(tmp_path: Path) -> Path:
    """Another tree, whose loop does something else."""
    tree = tmp_path / "another"
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tree / package, ignore=ignored)
    shutil.copy(ROOT / FRONT, tree / FRONT)
    loop = tree / "client" / "loop.py"
    loop.write_text(loop.read_text() + "\nFASTER = True\n")
    # The app that the tests' silos run is outside of a release.
    (tree / "tests" / "faults").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "faults" / "toy.py", tree / "tests" / "faults" / "toy.py")
    return tree


def test_a_silo_of_another_release_takes_part_where_its_owner_lists_the_run_s(
    tmp_path: Path, another_release: Path
) -> None:
    folder = tmp_path / "federation"
    folder.mkdir()
    federation = Federation(folder, silos=3)
    same, listing, other = federation.silos
    accepted = ["0" * 64, release_digest()]
    listing = replace(listing, policy=PolicyConf(code=accepted))
    names = [silo.name for silo in federation.silos]
    with (
        federation.orchestrator() as orchestrator,
        federation.process_node(orchestrator.address, same),
        federation.process_node(orchestrator.address, listing, root=another_release) as of_b,
        federation.process_node(orchestrator.address, other, root=another_release) as refusing,
    ):
        orchestrator.wait_for(names, 3, 120)
        grid = PackedGrid(orchestrator.open_run("run", names, files=FILES))
        replies = grid.send_and_receive(ask(grid, 1, model()), timeout=60)
        reasons = [reply.error.reason for reply in replies if reply.has_error()]
        assert len(replies) == 3 and len(reasons) == 1
        assert reasons[0].startswith("the silo says MDW-331 (our_release ")
        assert release_digest()[:12] in reasons[0]
        assert release_digest(another_release)[:12] in reasons[0]
        assert "refusing run" in refusing.text() and "refusing run" not in of_b.text()
