"""How strictly the same bits come each time: refused, noted, or left to the fastest."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from client.determinism import graded
from conf.schema import TrainerConf

CPU = torch.device("cpu")
GPU = torch.device("cuda")
_memory: Any = torch.utils.deterministic
_cudnn: Any = torch.backends.cudnn
WARNING = (
    "nll_loss2d_forward_out_cuda_template does not have a deterministic implementation, but you set"
    " 'torch.use_deterministic_algorithms(True, warn_only=True)'. You can file an issue."
)


def flags() -> tuple[Any, ...]:
    debug = torch.get_deterministic_debug_mode()
    return debug, _memory.fill_uninitialized_memory, _cudnn.benchmark


@pytest.mark.parametrize(
    ("device", "grade", "mode", "searches"),
    [
        (CPU, "auto", 2, False),
        (CPU, "true", 2, False),
        (CPU, "false", 0, False),
        (GPU, "auto", 1, False),
        (GPU, "true", 2, False),
        (GPU, "false", 0, True),
    ],
)
def test_what_torch_is_told_holds_inside_alone_also_after_a_failure(
    device: torch.device, grade: str, mode: int, searches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    before = flags()
    with pytest.raises(ZeroDivisionError), graded(device, TrainerConf(deterministic=grade)):
        assert flags() == (mode, False, searches)
        raise ZeroDivisionError
    assert flags() == before


def test_torch_s_compiler_is_told_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[bool, bool]] = []
    monkeypatch.setattr(
        torch, "use_deterministic_algorithms", lambda m, warn_only: told.append((m, warn_only))
    )
    for grade in ("auto", "true", "false"):
        with graded(GPU, TrainerConf(deterministic=grade, compile="default")):
            pass
    assert told == [(True, True), (True, False), (False, False)]


def test_operations_without_deterministic_form_are_noted_once_by_name() -> None:
    with graded(GPU, TrainerConf(deterministic="auto")) as operations:
        for _ in range(3):
            warnings.warn(WARNING, stacklevel=1)
    assert operations == {"nll_loss2d_forward_out_cuda_template"}


def test_any_other_warning_goes_its_way() -> None:
    with (
        pytest.warns(UserWarning, match="lr_scheduler"),
        graded(GPU, TrainerConf(deterministic="auto")) as operations,
    ):
        warnings.warn("lr_scheduler.step() before optimizer.step()", stacklevel=1)
    assert operations == set()
