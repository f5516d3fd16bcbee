"""What each of NVFlare's clients runs: train on the site's part, round after round."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]


def main() -> None:
    """Answer the server until the job is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--benchmarks")
    parser.add_argument("--seen")
    known, _ = parser.parse_known_args()
    sys.path[:0] = [known.benchmarks]
    import nvflare.client as flare
    import torch
    from work import NiidCnn, Work, mnist, parts, trained

    Work.add_to(parser)
    args = parser.parse_args()
    work = Work.of(args)
    torch.set_num_threads(1)
    flare.init()
    number = int(flare.get_site_name().rpartition("-")[2]) - 1
    x, y = (tensor[: work.examples] for tensor in mnist(work.root, "train"))
    mine = parts(len(y), work.silos)[number]
    model = NiidCnn()
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        if number == 0:
            with Path(args.seen).open("a") as file:
                file.write(json.dumps({"at": time.time()}) + "\n")
        model.load_state_dict(
            {name: torch.as_tensor(value) for name, value in received.params.items()}
        )
        trained(model, x[mine], y[mine], work)
        flare.send(
            flare.FLModel(
                params={name: value.clone() for name, value in model.state_dict().items()},
                meta={"NUM_STEPS_CURRENT_ROUND": len(mine)},
            )
        )


if __name__ == "__main__":
    main()
