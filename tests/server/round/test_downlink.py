"""The run's models are those that silos decode, whoever is sent what."""

from __future__ import annotations

from pathlib import Path

import torch

from conf.compose import compose
from server.round.downlink import Downlink
from server.simulation import simulate
from strategies.wire import protocol
from strategies.wire.digests import arrays_digest

SMALL = ["task=digits", "data.examples=200", "federation.size=2", "tracking=off", "run.rounds=3"]
POOL = ["simulation=pool", "simulation.workers=0"]


def downlink() -> Downlink:
    made = Downlink.of(compose(["task=digits", "compression.down=int4"]).compression, {"w"}, 0)
    assert made is not None
    return made


def test_without_it_there_is_none() -> None:
    assert Downlink.of(compose(["task=digits"]).compression, {"w"}, 0) is None


def test_each_model_is_a_step_from_the_one_before() -> None:
    down = downlink()
    first = protocol.to_record({"w": torch.linspace(-1, 1, 300)})
    mean = protocol.to_record({"w": torch.linspace(-1, 1.01, 300)})
    begin = down.sent(first)
    assert begin.step is None and begin.digest == arrays_digest(first)
    offer = down.next(first, mean, 1)
    assert offer.before == begin.digest and offer.digest == arrays_digest(offer.model)
    assert offer.digest != arrays_digest(mean)
    assert down.sent(offer.model) is offer
    # Another one, such as the best so far, has no step.
    assert down.sent(first).step is None


def test_a_round_that_is_taken_again_makes_the_same_model() -> None:
    first = protocol.to_record({"w": torch.linspace(-1, 1, 300)})
    mean = protocol.to_record({"w": torch.linspace(-1, 1.01, 300)})
    assert downlink().next(first, mean, 1).digest == downlink().next(first, mean, 1).digest
    assert downlink().next(first, mean, 1).digest != downlink().next(first, mean, 2).digest


def test_a_run_s_model_is_the_one_that_its_silos_decoded(tmp_path: Path) -> None:
    plain = simulate([*SMALL, *POOL, f"run.output={tmp_path}"])
    run = simulate([*SMALL, *POOL, "compression.down=int8", f"run.output={tmp_path}"])
    ours, theirs = run.model().state_dict(), plain.model().state_dict()
    assert not all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name, values in ours.items():
        torch.testing.assert_close(values, theirs[name], atol=0.05, rtol=0.1)
    again = simulate([*SMALL, *POOL, "compression.down=int8", f"run.output={tmp_path}"])
    assert all(
        torch.equal(ours[name], values) for name, values in again.model().state_dict().items()
    )
