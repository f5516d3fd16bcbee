"""Where a silo computes: what `auto` takes, what each precision computes in, what a seed decides."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from client import device
from conf.errors import ConfigError
from conf.schema import TrainerConf

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("cuda", "mps", "best"),
    [(True, True, "cuda:0"), (True, False, "cuda:0"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_a_cuda_gpu_then_apple_s_then_the_cpu(
    cuda: bool, mps: bool, best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "empty", lambda size, device: None)
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert device.choose("auto") == torch.device(best)
    # Before anything is made there: what is pinned would make a context on the first GPU otherwise.
    assert current == ([torch.device(best)] if cuda else [])


@pytest.mark.parametrize(
    ("given", "name", "taken"),
    [
        ("3/2", "auto", "cuda:3"),
        ("3/2", "cuda", "cuda:3"),
        ("3/2", "cuda:1", "cuda:1"),
        ("3/2", "cpu", "cpu"),
        ("none", "auto", "cpu"),
    ],
)
def test_a_process_takes_the_gpu_that_it_was_given(
    given: str, name: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEADOW_GPU", given)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch, "empty", lambda size, device: None)
    assert device.choose(name) == torch.device(taken)


def test_a_device_that_nobody_makes_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"MDW-104: The device 'tpu9' can't be used") as caught:
        device.choose("tpu9")
    assert "\n" not in caught.value.message and caught.value.hint == "Use auto or cpu."


def test_a_model_is_where_its_weights_are() -> None:
    assert device.device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")


@pytest.mark.parametrize(
    ("precision", "computes_in"),
    [
        ("fp32", torch.float32),
        ("tf32", torch.float32),
        ("bf16", torch.bfloat16),
        ("fp16", torch.float16),
    ],
)
def test_a_model_computes_in_the_precision_of_the_trainer(
    precision: str, computes_in: torch.dtype
) -> None:
    layer = nn.Linear(2, 2)
    with device.autocast(CPU, TrainerConf(precision=precision)):
        assert layer(torch.ones(1, 2)).dtype == computes_in
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("precision", "allowed"), [("fp32", False), ("tf32", True), ("bf16", True)]
)
def test_fp32_on_a_gpu_is_whole_and_tf32_is_stated(
    precision: str, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = TrainerConf(precision=precision)
    told: list[bool] = []

    def noted(device: torch.device, *, allowed: bool) -> Any:
        told.append(allowed)
        return nullcontext()

    monkeypatch.setattr(device, "tf32", noted)
    monkeypatch.setattr(device, "seeded", lambda *_, **__: nullcontext())
    with device.reproducible(torch.device("cuda"), 1, conf):
        pass
    assert told == [allowed]


@pytest.mark.parametrize(
    ("asked", "trains", "kind", "scores"),
    [
        ("auto", "bf16", "cuda", "tf32"),
        ("auto", "fp32", "cuda", "fp32"),
        ("auto", "fp16", "cpu", "fp32"),
        ("fp32", "bf16", "cuda", "fp32"),
        ("train", "bf16", "cpu", "bf16"),
    ],
)
def test_what_is_scored_is_the_model_that_travels_unless_asked_otherwise(
    asked: str, trains: str, kind: str, scores: str
) -> None:
    conf = TrainerConf(precision=trains, eval_precision=asked)
    assert device.for_scores(conf, torch.device(kind)).precision == scores


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
