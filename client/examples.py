"""Sets of examples: their union."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import ConcatDataset, Dataset, TensorDataset


def union(parts: Sequence[Dataset[Any]]) -> Dataset[Any]:
    """Return several sets as one; in memory if all of them are, so that the loop's fast path still
    fits.
    """
    if all(isinstance(part, TensorDataset) for part in parts):
        columns = zip(
            *(part.tensors for part in parts if isinstance(part, TensorDataset)), strict=True
        )
        return TensorDataset(*(torch.cat(column) for column in columns))
    return ConcatDataset(parts)
