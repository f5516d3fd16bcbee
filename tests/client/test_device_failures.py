"""A failure of a device is told by its kind: full memory, a lost context, other bits each time."""

from __future__ import annotations

import pytest
import torch

from client import device_failures
from client.device_failures import DeviceLost, told, undeterministic, with_room
from conf.border import across
from conf.errors import DataError

CPU = torch.device("cpu")
FULL = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
)
LOST = RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be")
WITHOUT = RuntimeError(
    "nll_loss2d_forward_out_cuda_template does not have a deterministic implementation, but you"
    " set 'torch.use_deterministic_algorithms(True)'."
)


@pytest.mark.parametrize("error", FULL, ids=str)
def test_full_memory_names_the_key_and_a_number(error: RuntimeError) -> None:
    with pytest.raises(DataError, match=r"MDW-225.*batch_size_at_most=32") as caught, told(64):
        raise error
    assert across(caught.value) == 'MDW-225 {"batch_size":64,"batch_size_at_most":32}'


def test_a_batch_of_one_can_not_be_made_smaller() -> None:
    with pytest.raises(DataError, match=r"MDW-225.*smaller model"), told(1):
        raise FULL[0]


def test_a_lost_context_is_one_class_of_error() -> None:
    with pytest.raises(DeviceLost, match=r"MDW-226.*device-side assert") as caught, told(8):
        raise LOST
    assert across(caught.value) == "MDW-226"


@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="only since torch 2.8")
def test_torch_s_own_class_of_lost_contexts_is_known() -> None:
    with pytest.raises(DeviceLost), told(8):
        raise torch.AcceleratorError("an illegal memory access was encountered")


def test_an_operation_without_deterministic_form_is_named_with_the_key() -> None:
    named = r"MDW-227: trainer.deterministic=true: nll_loss2d"
    with pytest.raises(DataError, match=named), told(8):
        raise WITHOUT
    assert undeterministic("set CUBLAS_WORKSPACE_CONFIG=:4096:8") == "cuBLAS"


def test_any_other_error_is_left_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes"), told(8):
        raise RuntimeError("shapes do not match")


def test_full_memory_is_tried_once_more_after_what_can_be_spared_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    monkeypatch.setattr(device_failures, "_spared", [lambda device: done.append(str(device))])

    def action() -> str:
        done.append("tried")
        if done.count("tried") == 1:
            raise FULL[0]
        return "made"

    assert with_room(CPU, action, lambda: done.append("undone")) == "made"
    assert done == ["tried", "cpu", "undone", "tried"]


def test_a_lost_context_is_not_touched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("touched")

    monkeypatch.setattr(device_failures, "make_room", never)
    monkeypatch.setattr(torch.cuda, "empty_cache", never)

    def action() -> None:
        raise LOST

    with pytest.raises(DeviceLost), told(8):
        with_room(torch.device("cuda"), action, lambda: never())
