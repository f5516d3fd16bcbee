"""A model's arrays in a file of safetensors, each in its own type: what a run leaves, and an audit reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from flwr.app import ArrayRecord
from safetensors import safe_open
from safetensors.numpy import load_file, save

from strategies.wire import protocol
from strategies.wire.objects import BFLOAT16, array_of

_BFLOAT16: Final = "BF16"
"""Its name in such a file; the format's reader for numpy has none."""


def weights_as_bytes(arrays: ArrayRecord, metadata: Mapping[str, str]) -> bytes:
    """Return the content of a file of these arrays."""
    if all(array.dtype != BFLOAT16 for array in arrays.values()):
        values = {name: array.copy() for name, array in protocol.to_numpy(arrays).items()}
        return save(values, dict(metadata))
    from safetensors.torch import save as save_tensors

    return save_tensors(protocol.to_state(arrays), dict(metadata))


def read_weights(path: Path) -> ArrayRecord:
    """Return the arrays of a file, by name.

    Raises SafetensorError, OSError, ValueError, LookupError or TypeError for one that is none.
    """
    with safe_open(path, "np") as file:
        types = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  # no mapping
    if _BFLOAT16 not in types:
        return ArrayRecord({name: array_of(values) for name, values in load_file(path).items()})
    from safetensors.torch import load_file as load_tensors

    return protocol.to_record(load_tensors(path))
