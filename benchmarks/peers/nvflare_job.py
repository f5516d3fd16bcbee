"""NVFlare's side of `benchmarks/frameworks.py`: a FedAvg job in its simulator, in its own environment."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCHMARKS)]

import torch
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.app_opt.pt.job_config.base_fed_job import BaseFedJob
from nvflare.job_config.script_runner import ScriptRunner
from work import NiidCnn, Work, accuracy, mnist, say


def main() -> None:
    """Run one job; a client notes when it got each round's model."""
    parser = argparse.ArgumentParser(description=__doc__)
    Work.add_to(parser)
    work = Work.of(parser.parse_args())
    torch.manual_seed(work.seed)
    with tempfile.TemporaryDirectory(prefix="nvflare-") as folder:
        seen = Path(folder) / "rounds.jsonl"
        arguments = " ".join(
            [*work.arguments(), "--seen", str(seen), "--benchmarks", str(BENCHMARKS)]
        )
        job = BaseFedJob(name="fedavg", initial_model=NiidCnn())
        job.to_server(FedAvg(num_clients=work.cohort or work.silos, num_rounds=work.rounds))
        client = str(Path(__file__).with_name("nvflare_client.py"))
        job.to_clients(ScriptRunner(script=client, script_args=arguments))
        job.export_job(folder)
        # Not `job.simulator_run`: it does not hand over that there may be more than 100 clients.
        command = [sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator"]
        command += [str(Path(folder) / job.name), "-w", str(Path(folder) / "workspace")]
        command += ["-n", str(work.silos), "-m", str(work.silos), "-t", str(min(work.silos, 10))]
        subprocess.run(command, check=True)
        ended = time.time()
        at = [json.loads(line)["at"] for line in seen.read_text().splitlines()]
        print(json.dumps({"event": "begin", "at": at[0], "value": None}))
        for one in [*at[1:], ended]:
            print(json.dumps({"event": "round", "at": one, "value": None}))
        model = NiidCnn()
        saved = next(Path(folder).rglob("FL_global_model.pt"))
        # The file is NVFlare's own, of a moment ago, and tensors are all that is read of it.
        stored = torch.load(saved, weights_only=True)  # noqa: TID251
        model.load_state_dict(stored["model"])
        tx, ty = mnist(work.root, "t10k")
        say("accuracy", accuracy(model, tx, ty, work))


if __name__ == "__main__":
    main()
