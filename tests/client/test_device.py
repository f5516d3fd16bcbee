"""Where a silo computes: what `auto` takes, what each precision computes in, what a seed decides."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from client import device
from conf.errors import ConfigError
from conf.schema import TrainerConf

CPU = torch.device("cpu")
_memory: Any = torch.utils.deterministic


@pytest.mark.parametrize(
    ("cuda", "mps", "best"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_a_cuda_gpu_then_apple_s_then_the_cpu(
    cuda: bool, mps: bool, best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "empty", lambda size, device: None)
    assert device.choose("auto") == torch.device(best)


def test_a_device_that_nobody_makes_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"MDW-104: The device 'tpu9' can't be used") as caught:
        device.choose("tpu9")
    assert "\n" not in caught.value.message and caught.value.hint == "Use auto or cpu."


def test_a_model_is_where_its_weights_are() -> None:
    assert device.device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")


@pytest.mark.parametrize(
    ("precision", "computes_in"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_a_model_computes_in_the_precision_of_the_trainer(
    precision: str, computes_in: torch.dtype
) -> None:
    layer = nn.Linear(2, 2)
    with device.autocast(CPU, TrainerConf(precision=precision)):
        assert layer(torch.ones(1, 2)).dtype == computes_in
    assert layer.weight.dtype == torch.float32


def test_draws_come_from_the_seed_and_the_random_state_is_left_as_it_was() -> None:
    conf = TrainerConf()
    before = torch.get_rng_state()
    draws = []
    for seed in (5, 5, 6):
        with device.reproducible(CPU, seed, conf):
            draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("deterministic", [True, False])
def test_what_torch_was_told_holds_inside_alone_also_after_a_failure(deterministic: bool) -> None:
    conf = dataclasses.replace(TrainerConf(), deterministic=deterministic)
    before = (torch.are_deterministic_algorithms_enabled(), _memory.fill_uninitialized_memory)
    with pytest.raises(ZeroDivisionError), device.reproducible(CPU, 1, conf):
        assert torch.are_deterministic_algorithms_enabled() is deterministic
        assert not _memory.fill_uninitialized_memory
        raise ZeroDivisionError
    after = (torch.are_deterministic_algorithms_enabled(), _memory.fill_uninitialized_memory)
    assert after == before


def test_a_seed_gives_the_numbers_of_torch_manual_seed() -> None:
    torch.manual_seed(41)
    expected = torch.rand(5)
    with device.reproducible(CPU, 41, TrainerConf()):
        assert torch.equal(torch.rand(5), expected)


def test_seeding_formats_no_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    def formatted() -> list[str]:
        raise AssertionError("a stack was formatted")

    monkeypatch.setattr("traceback.format_stack", formatted)
    with device.reproducible(CPU, 41, TrainerConf()):
        pass
