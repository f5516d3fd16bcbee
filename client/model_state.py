"""Whether a model's state dict can travel, be averaged and be loaded again, entry by entry.

Asked before anything is trained, so that a model that can't be federated is refused by the name of
the entry and not by the first silo's update.

    MDW-230 an entry that is no tensor      MDW-233 an entry that can't be written to
    MDW-231 an entry without values yet     MDW-234 an entry that is not finite
    MDW-232 a kind that can't travel        MDW-235 a state that does not come back as it was
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from conf.errors import DataError
from strategies.wire import protocol

AVERAGED: Final = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Element types of which a mean is taken; each travels as it is."""
COUNTED: Final = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
)
"""Element types of which the largest is kept: counters, masks."""


def check_state(model: nn.Module) -> None:
    """Raise DataError MDW-230 to 235 where a model's state dict can't go there and back.

    Tied weights may: each of their names travels, with the same values, and is loaded again.
    """
    state = model.state_dict()
    for name, value in state.items():
        _check_entry(name, value)
    _check_return(model, state)


def _check_entry(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        what = f"{name!r} is a {type(value).__name__}, not a tensor: it would not be averaged"
        hint = "Return no get_extra_state(), or a tensor kept as a buffer."
        raise _unfit("MDW-230", what, hint)
    if is_lazy(value):
        what = f"{name!r} has no shape before the first batch (a lazy layer)"
        hint = (
            "Give the layer its sizes, or call the model once on a batch of zeros when it is made."
        )
        raise _unfit("MDW-231", what, hint)
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        kind = "quantized" if value.is_quantized else f"{value.layout} on {value.device}"
        what = f"{name!r} is {kind}: only dense tensors travel"
        raise _unfit("MDW-232", what, "Keep it dense, or out of the state dict.")
    if value.dtype not in AVERAGED + COUNTED:
        what = f"{name!r} is {value.dtype}, of which no mean is taken"
        hint = "Use float32, or keep it out of the state dict (persistent=False)."
        raise _unfit("MDW-232", what, hint)
    if _shares_elements(value):
        what = f"{name!r} is an expanded tensor: several elements are one place in memory"
        raise _unfit("MDW-233", what, "Register it with .clone(), or with persistent=False.")
    if not bool(torch.isfinite(value).all()):
        what = f"{name!r} holds values that are not finite, which no update may hold"
        hint = "Register such a constant (a mask of -inf) with persistent=False."
        raise _unfit("MDW-234", what, hint)


def _shares_elements(tensor: Tensor) -> bool:
    """Say whether load_state_dict would have to write several elements to one place."""
    dimensions = zip(tensor.shape, tensor.stride(), strict=True)
    return any(size > 1 and stride == 0 for size, stride in dimensions)


def _check_return(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Send the state as the wire does, and load it into the model again."""
    before = {name: value.detach().clone() for name, value in state.items()}
    try:
        model.load_state_dict(protocol.to_state(protocol.to_record(state)))
    except (RuntimeError, ValueError, TypeError) as error:
        what = f"its own state can't be loaded again: {first_line(error)}"
        raise _unfit("MDW-235", what, _RETURN_HINT) from error
    for name, value in model.state_dict().items():
        if not torch.equal(value, before[name]):
            what = f"{name!r} has other values after it was saved and loaded"
            raise _unfit("MDW-235", what, _RETURN_HINT)


_RETURN_HINT: Final = "model.load_state_dict(model.state_dict()) must change nothing."


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line that names its kind."""
    said = str(error).strip().splitlines()
    text = said[0].rstrip(".")[:300] if said else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _unfit(code: str, what: str, hint: str) -> DataError:
    return DataError(code, f"The model can't be federated: {what}.", hint)
