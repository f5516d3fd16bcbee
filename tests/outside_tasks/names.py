"""Which words of a sentence are names: sequences of any length, a model of the task's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

import meadow

WORDS = 50


class Tagger(nn.Module):
    """Looks at a word and its neighbours on both sides."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, width, padding_idx=0)
        self.mix = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.last = nn.Linear(2 * width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (n, length, classes) of tokens (n, length)."""
        mixed, _ = self.mix(self.words(tokens))
        return self.last(mixed)  # type: ignore[no-any-return]  # torch's modules have no types


class Names(meadow.TokenClassification):
    """Lines of words and of tags, in turns, as numbers."""

    contract = meadow.Contract((None,), ("other", "name"), dense=True)

    def __init__(self, width: int = 8) -> None:
        self.width = width

    def model(self, conf: Any) -> nn.Module:
        """Return a new tagger."""
        return Tagger(self.width, len(self.contract.classes))

    def read(self, root: Path) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return words and tags of each sentence."""
        lines = [np.array(line.split(), np.int64) for line in root.read_text().splitlines()]
        return list(zip(lines[::2], lines[1::2], strict=True))
