"""Wherever in the app a device fails, what leaves it has a code."""

from __future__ import annotations

import pytest
import torch
from flwr.app import Context, Message, RecordDict

from client.device_failures import DeviceLost
from client.device_mod import device_mod
from conf.errors import DataError

pytestmark = pytest.mark.usefixtures("task_identity")


def answer(error: Exception) -> None:
    message = Message(RecordDict(), 7, "train")
    context = Context(1, 1, {}, RecordDict(), {})

    def app(message: Message, context: Context) -> Message:
        raise error

    device_mod(message, context, app)


def test_a_model_that_does_not_fit_has_a_code() -> None:
    with pytest.raises(DataError, match=r"MDW-225: The model needs more memory"):
        answer(torch.OutOfMemoryError("CUDA out of memory."))


def test_a_lost_device_is_the_error_that_ends_the_process() -> None:
    with pytest.raises(DeviceLost, match="MDW-226"):
        answer(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_any_other_error_is_the_app_s_own() -> None:
    with pytest.raises(ValueError, match="mine"):
        answer(ValueError("mine"))
