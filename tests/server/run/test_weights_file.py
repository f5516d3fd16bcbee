"""A model's file has each array in its own type, and is read again to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord
from safetensors import SafetensorError
from safetensors.torch import load_file

from server.run.weights_file import read_weights, weights_as_bytes
from strategies.wire import protocol
from strategies.wire.digests import arrays_digest


def model(dtype: torch.dtype) -> ArrayRecord:
    return protocol.to_record(
        {"z.w": torch.linspace(-1, 1, 6).reshape(2, 3).to(dtype), "steps": torch.tensor(7)}
    )


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_what_is_written_is_read_with_the_same_digest_by_us_and_by_torch(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    arrays = model(dtype)
    file = tmp_path / "model.safetensors"
    file.write_bytes(weights_as_bytes(arrays, {"run_id": "a"}))
    assert arrays_digest(read_weights(file)) == arrays_digest(arrays)
    tensors = load_file(file)
    assert tensors["z.w"].dtype == dtype and tensors["steps"] == 7


def test_what_is_no_such_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    with pytest.raises((SafetensorError, OSError, ValueError)):
        read_weights(file)
    with pytest.raises(OSError):
        read_weights(tmp_path / "nothing")
