"""TF32 is on or off for matrix products and convolutions alike, and outside it is as before."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from client.tf32 import tf32

GPU = torch.device("cuda")
_cuda: Any = torch.backends.cuda
_cudnn: Any = torch.backends.cudnn


def flags() -> tuple[Any, ...]:
    with warnings.catch_warnings():
        # Some releases of torch warn of their older switches where they are read.
        warnings.simplefilter("ignore")
        both = (_cuda.matmul.allow_tf32, _cudnn.allow_tf32)
    if not hasattr(_cuda.matmul, "fp32_precision"):
        return both
    newer = (_cuda.matmul, _cudnn.conv, _cudnn.rnn)
    return (*both, *(backend.fp32_precision for backend in newer))


@pytest.mark.parametrize("allowed", [True, False])
def test_both_kinds_of_product_follow_and_all_is_put_back_also_after_a_failure(
    allowed: bool,
) -> None:
    before = flags()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ZeroDivisionError), tf32(GPU, allowed=allowed):
            assert flags()[:2] == (allowed, allowed)
            raise ZeroDivisionError
    assert flags() == before


def test_inside_the_older_and_the_newer_switches_agree() -> None:
    # torch's compiler asks both in some releases, and raises where they do not.
    with tf32(GPU, allowed=True):
        assert torch.get_float32_matmul_precision() == "high"
        assert set(flags()) <= {True, "tf32"}


def test_on_a_cpu_nothing_is_set() -> None:
    before = flags()
    with tf32(torch.device("cpu"), allowed=True):
        assert flags() == before
