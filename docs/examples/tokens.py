"""Which words of a sentence are names: sentences of any length, a line of tokens, a line of tags.

meadow simulate task.target=tokens.py:Names task.args.width=16 data=iid data.root=tokens.txt
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

import meadow

WORDS = 50


class Names(meadow.TokenClassification):
    """Tokens are numbers of a vocabulary of 50 words; 0 is the padding."""

    contract = meadow.Contract((None,), classes=("other", "name"), dense=True)

    def __init__(self, width: int = 8) -> None:
        self.width = width

    def read(self, root: Path) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return tokens and tags of each sentence."""
        lines = [np.array(line.split(), int) for line in root.read_text().splitlines()]
        return list(zip(lines[::2], lines[1::2], strict=True))

    def model(self, conf: object) -> nn.Module:
        """Return a vector for each word, and a decision of it alone."""
        return nn.Sequential(nn.Embedding(WORDS, self.width), nn.Linear(self.width, 2))
