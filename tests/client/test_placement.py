"""What a process is given of a machine's GPUs, and what is refused where that is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from client import driver, placement
from client.driver import Driver
from client.placement import (
    Placement,
    check_named,
    check_there,
    environment,
    given,
    masked,
    shared,
    told_here,
)
from conf.errors import ConfigError, SiloError
from conf.schema import Silo

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (placement.VARIABLE, placement.MASK):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def places(processes: int, gpus: int, *, meant: bool = False) -> list[str]:
    found = [placement.placement(n, processes, gpus, meant=meant) for n in range(processes)]
    return [str(place) for place in found]


def test_each_process_gets_the_next_gpu_and_knows_who_shares_it() -> None:
    assert places(2, 2) == ["0/1", "1/1"]
    assert places(5, 2) == ["0/3", "1/2", "0/3", "1/2", "0/3"]
    assert places(1, 8) == ["0/1"]
    assert places(2, 0) == ["None", "None"]
    assert places(2, 0, meant=True) == ["none", "none"]


@pytest.mark.parametrize("place", [Placement(None), Placement(0), Placement(7, 16)])
def test_what_a_process_is_told_it_reads_again(place: Placement) -> None:
    with told_here(place):
        assert given() == place
        assert (os.environ.get(placement.MASK) == "") is (place.gpu is None)
    assert given() is None and placement.MASK not in os.environ
    assert environment(None) == {}


@pytest.mark.parametrize("text", ["", "gpu", "1", "-1/2", "1/2/3", "9999/1", "1/0x"])
def test_any_other_text_is_no_placement(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(placement.VARIABLE, text)
    assert given() is None


@pytest.mark.usefixtures("two_gpus")
def test_a_simulation_shares_what_is_visible_or_the_first_so_many() -> None:
    assert [shared(gpus) for gpus in (None, 0, 1, 2)] == [2, 0, 1, 2]
    with pytest.raises(SiloError, match=r"MDW-345: simulation\.gpus=3 .* sees 2"):
        shared(3)


NORTH = Silo("north", gpus=1)


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_a_silo_that_was_given_a_gpu_and_finds_none_is_refused(device: str) -> None:
    with pytest.raises(SiloError, match=r"MDW-344: north was given a GPU") as caught:
        check_there(NORTH, device)
    assert set(caught.value.told) == {"found"}


def test_so_is_a_worker_that_was_given_one(monkeypatch: pytest.MonkeyPatch) -> None:
    check_there(Silo("north"), "auto")
    monkeypatch.setenv(placement.VARIABLE, "1/2")
    with pytest.raises(SiloError, match="MDW-344"):
        check_there(Silo("north"), "auto")


def test_whoever_is_told_to_train_without_one_is_content(monkeypatch: pytest.MonkeyPatch) -> None:
    check_there(NORTH, "cpu")
    check_there(NORTH, "mps")
    monkeypatch.setenv(placement.VARIABLE, "none")
    check_there(NORTH, "auto")


@pytest.mark.parametrize(
    ("cuda", "has", "mask", "why"),
    [
        (None, None, None, "torch is a build without CUDA"),
        ("13.0", None, None, "there is no driver of NVIDIA's"),
        ("13.0", Driver((12, 4)), None, "its driver runs CUDA 12.4, and torch needs 13.0"),
        ("13.0", Driver((13, 0)), "", "CUDA_VISIBLE_DEVICES is empty"),
        ("13.0", Driver((13, 0)), None, "none is visible to it"),
    ],
)
def test_the_refusal_says_why_in_words_of_our_own(
    cuda: str | None,
    has: Driver | None,
    mask: str | None,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver, "cuda_of_torch", lambda: cuda)
    monkeypatch.setattr(driver, "found", lambda: has)
    with pytest.raises(SiloError) as caught:
        check_there(NORTH, "auto", {} if mask is None else {placement.MASK: mask})
    assert caught.value.told == {"found": why} and why in caught.value.message


@pytest.mark.usefixtures("two_gpus")
def test_a_run_that_names_a_device_is_checked_without_a_context() -> None:
    for name in ("auto", "cpu", "mps", "cuda", "cuda:1"):
        check_named(name)
    with pytest.raises(ConfigError, match=r"MDW-104: The device 'cuda:2' .* has 2 CUDA GPUs"):
        check_named("cuda:2")


def test_without_a_gpu_a_run_on_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=r"MDW-104.*no CUDA GPU is visible here"):
        check_named("cuda")


def test_an_actor_that_sees_one_gpu_says_which_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    assert masked(gpu) == ""
    monkeypatch.setenv(placement.MASK, "3,1")
    assert masked(gpu) == " (GPU 3)" and masked(torch.device("cuda", 1)) == " (GPU 1)"
    assert masked(torch.device("cpu")) == "" and masked(torch.device("cuda", 2)) == ""
    # A GPU's own number names the machine.
    monkeypatch.setenv(placement.MASK, "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6")
    assert masked(gpu) == ""


def test_looking_at_the_machine_asks_cuda_for_nothing() -> None:
    """What a process does that trains nothing: compose, count, describe itself, check a run."""
    code = """
import torch
def asked(*_, **__):
    raise AssertionError("CUDA was asked")
torch._C._cuda_getDeviceCount = asked
torch.cuda._lazy_init = asked
torch.cuda.is_available = asked
torch.cuda._is_compiled = lambda: True
torch.cuda._device_count_nvml = lambda: 2
from client.placement import check_named, shared
from conf.compose import compose
from server.run.environment import environment
conf = compose(["task=digits", "trainer.device=cuda:1"])
check_named(conf.trainer.device)
assert shared(None) == 2
print(environment(conf)["devices"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['CUDA GPU', 'CUDA GPU']\n"
