"""A model that is made of the one before: the same at both ends, and no lie leads to another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord

from conf.compose import compose
from strategies.compression.blockwise import Int8
from strategies.compression.codec import Codec
from strategies.compression.step import Step, applied, down_codec, stepped
from strategies.wire import protocol
from strategies.wire.digests import arrays_digest
from strategies.wire.objects import array_of, view

PARAMETERS = {"w", "b", "wide"}


def model(shift: float = 0.0, seed: int = 0) -> ArrayRecord:
    draws = torch.Generator().manual_seed(seed)
    return protocol.to_record(
        {
            "w": torch.randn(40, 30, generator=draws) + shift,
            "b": torch.zeros(30) + shift,
            "wide": torch.linspace(0, 1, 5, dtype=torch.float64) + shift,
            "frozen": torch.ones(7),
            "running_var": torch.ones(3) + shift,
            "steps": torch.tensor(3),
        }
    )


def codec(down: str = "int8") -> Codec:
    found = down_codec(compose(["task=digits", f"compression.down={down}"]).compression)
    assert found is not None
    return found


def test_full_models_have_no_codec_and_a_run_s_block_is_that_of_both_ways() -> None:
    assert down_codec(compose(["task=digits"]).compression) is None
    both = ["task=digits", "compression=int4", "compression.block=64", "compression.down=int8"]
    found = down_codec(compose(both).compression)
    assert isinstance(found, Int8) and found.block == 64


@pytest.mark.parametrize("down", ["bf16", "int8", "int4"])
def test_the_model_is_what_the_step_leads_to_to_the_bit(down: str) -> None:
    before, mean = model(), model(0.01)
    after, step = stepped(codec(down), before, mean, PARAMETERS, 3)
    assert list(after) == list(before)
    assert arrays_digest(applied(codec(down), before, step)) == arrays_digest(after)
    assert step.coded == ("b", "w", "wide") and list(step.whole) == ["running_var"]
    values = protocol.to_numpy(after)
    for name, wanted in protocol.to_numpy(mean).items():
        np.testing.assert_allclose(values[name], wanted, atol=0.003)
    assert view(after["frozen"]) == view(before["frozen"])
    assert view(after["running_var"]) == view(mean["running_var"])


def test_what_has_not_changed_is_not_sent() -> None:
    after, step = stepped(codec(), model(), model(), PARAMETERS, 3)
    assert step.coded == () and not step.whole
    assert arrays_digest(after) == arrays_digest(model())


def test_a_step_has_a_quarter_of_the_model_s_bytes() -> None:
    _, step = stepped(codec(), model(), model(0.01), PARAMETERS, 3)
    size = sum(len(view(array)) for array in step.change.values())
    assert size < 0.3 * sum(len(view(model()[name])) for name in step.coded)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_model_to_which_no_change_leads_is_sent_whole(value: float) -> None:
    mean = model(0.01)
    mean["b"] = array_of(np.full(30, value, np.float32))
    after, step = stepped(codec(), model(), mean, PARAMETERS, 3)
    assert after is mean and step.coded == () and step.whole is mean


def without(record: ArrayRecord, name: str) -> ArrayRecord:
    left = ArrayRecord()
    for other, array in record.items():
        if other != name:
            left[other] = array
    return left


def test_a_step_that_is_not_of_the_model_is_refused() -> None:
    before = model()
    _, good = stepped(codec(), before, model(0.01), PARAMETERS, 3)
    more = ArrayRecord()
    more["other"] = before["b"]
    wrong: list[Step] = [
        replace(good, coded=("b", "w")),
        replace(good, coded=("b", "b", "w", "wide")),
        replace(good, coded=("b", "other", "wide")),
        replace(good, coded=("b", "steps", "w", "wide")),
        replace(good, change=without(good.change, "scales")),
        replace(good, whole=more),
        replace(good, whole=without(before, "w")),
    ]
    for step in wrong:
        with pytest.raises(ValueError, match=r"array|change"):
            applied(codec(), before, step)


@pytest.mark.parametrize("down", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_model_of_halves_steps_too_and_stays_of_halves(down: str, dtype: torch.dtype) -> None:
    before = protocol.to_record({"w": torch.linspace(-1, 1, 600).to(dtype)})
    mean = protocol.to_record({"w": torch.linspace(-1, 1.1, 600).to(dtype)})
    after, step = stepped(codec(down), before, mean, PARAMETERS, 3)
    assert step.coded == ("w",) and after["w"].dtype == before["w"].dtype
    assert arrays_digest(applied(codec(down), before, step)) == arrays_digest(after)
    made = protocol.to_state(after)["w"].float()
    wanted = protocol.to_state(mean)["w"].float()
    assert float((made - wanted).abs().max()) < 0.03
