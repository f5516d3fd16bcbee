"""On a real GPU: what a silo takes, says and scores there, and what happens when its context is lost.

Without one nothing here has been tried (docs/gpu.md).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from client import placement
from client.compute import AS_THE_RUN_SAYS, Hardware, resolved
from client.device import choose
from conf.schema import Silo, TrainerConf
from server.engines.pool import PoolGrid
from server.simulation import simulate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
TINY = [
    "task=digits",
    "data.examples=200",
    "data.partition=iid",
    "federation.size=2",
    "run.rounds=2",
    "model=cnn",
    "tracking=off",
    "simulation=pool",
]


def python(code: str, **environment: str) -> str:
    """Return what a new process prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_auto_is_this_gpu_in_what_it_computes() -> None:
    device = choose("auto")
    hardware = Hardware.of(device)
    assert device == torch.device("cuda", 0) and hardware.name == torch.cuda.get_device_name(0)
    trainer = resolved(TrainerConf(), AS_THE_RUN_SAYS, device)
    assert trainer.precision == ("bf16" if hardware.bf16 else "fp16")
    assert trainer.deterministic == "auto"


def test_looking_at_the_machine_leaves_it_fit_for_a_fork_that_trains() -> None:
    """What the parent of a pool does; a context there would break every worker that is forked."""
    said = python(
        "import os, torch\n"
        "from client import placement\n"
        "from conf.compose import compose\n"
        "from server.run.environment import environment\n"
        "conf = compose(['task=digits', 'trainer.device=cuda'])\n"
        "placement.check_named(conf.trainer.device)\n"
        "assert placement.shared(None) == torch.cuda.device_count() > 0\n"
        "print(environment(conf)['devices'][0], flush=True)\n"
        "assert not torch.cuda.is_initialized()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(int(torch.ones(2, device='cuda').sum().item()) - 2)\n"
        "assert os.waitpid(child, 0)[1] == 0, 'the child could not use the GPU'\n"
    )
    assert said in (torch.cuda.get_device_name(0), "CUDA GPU")


def test_a_simulation_trains_there_and_says_so(tmp_path: Path) -> None:
    run = simulate([*TINY, "simulation.workers=2", f"run.output={tmp_path}"])
    for told in run.result.software.values():
        assert told["device"].startswith("cuda:")
        assert told["card"] == torch.cuda.get_device_name(0)
        assert told["precision"] in ("bf16", "fp16")
    assert torch.cuda.get_device_name(0) in (run.folder / "report.html").read_text()
    assert all(torch.isfinite(one).all() for one in run.model().state_dict().values())


def test_simulation_gpus_0_trains_on_the_cpu_beside_a_gpu(tmp_path: Path) -> None:
    words = ["simulation.workers=1", "simulation.gpus=0", f"run.output={tmp_path}"]
    run = simulate([*TINY, *words])
    assert {told["device"] for told in run.result.software.values()} == {"cpu"}
    assert {told["precision"] for told in run.result.software.values()} == {"fp32"}


def test_a_silo_that_was_given_a_gpu_which_is_hidden_is_refused() -> None:
    said = python(
        "from client.placement import check_there\n"
        "from conf.schema import Silo\n"
        "try:\n"
        "    check_there(Silo('north', gpus=1), 'auto')\n"
        "except Exception as error:\n"
        "    print(error)\n",
        **{placement.MASK: ""},
    )
    assert said.startswith("MDW-344: north was given a GPU") and "CUDA_VISIBLE_DEVICES is" in said


def test_the_server_scores_there_as_on_a_cpu(tmp_path: Path) -> None:
    scores = []
    for device in ("auto", "cpu"):
        words = [
            f"federation.orchestrator.device={device}",
            f"run.name={device}",
            "run.baseline=silos",
            "trainer.precision=bf16",
            "trainer.device=cpu",
            "simulation.workers=1",
            f"run.output={tmp_path}",
        ]
        run = simulate([*TINY, *words])
        assert run.result.baseline is not None
        scores.append(run.result.baseline.federated.union["loss"])
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)


def test_a_lost_context_costs_that_silo_s_round_and_its_worker_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    silos = [Silo(f"silo-{i}", i, 3) for i in range(3)]

    def ask(grid: PoolGrid, poison: str) -> dict[str, Message]:
        content = RecordDict({"config": ConfigRecord({"poison": poison})})
        asked = [Message(content, node, "train") for node in grid.get_node_ids()]
        names = grid.names()
        found = grid.replies(grid.push_messages(asked), 120)
        return {names[reply.metadata.src_node_id]: reply for reply in found}

    with PoolGrid(silos, 1, app="poisoned_app:app") as grid:
        first = ask(grid, "silo-0")
        assert "MDW-226" in first["silo-0"].error.reason
        assert not first["silo-1"].has_error() and not first["silo-2"].has_error()
        second = ask(grid, "")
        assert not any(reply.has_error() for reply in second.values())
