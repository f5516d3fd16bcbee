"""A task of a stranger's whose batches are dicts, with a tied and a frozen layer: each form and each rule trains it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import meadow
from conf.combination_axes import COHORT_RULES
from conf.compose import compose
from conf.schema import VARIANTS
from server.scoring.evaluation import first_weights
from strategies.wire import protocol

TASK = '''
import numpy as np
import torch
from torch import nn
import meadow

WORDS = 40


class Tied(nn.Module):
    """Words in and words out by the same matrix; what lies between is as it was drawn."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, width)
        self.between = nn.Linear(width, width)
        self.between.requires_grad_(False)
        self.norm = nn.LayerNorm(width)
        self.decoder = nn.Linear(width, WORDS)
        self.decoder.weight = self.words.weight
        self.last = nn.Linear(width, 2)

    def forward(self, tokens, mask):
        each = self.norm(self.words(tokens) + self.between(self.words(tokens)))
        mean = (each * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return {"label": self.last(mean), "words": self.decoder(each)}


class Sentences(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, at):
        return self.rows[at]


def padded(rows):
    longest = max(len(row["tokens"]) for row in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    for at, row in enumerate(rows):
        tokens[at, : len(row["tokens"])] = torch.from_numpy(row["tokens"])
    labels = torch.tensor([row["label"] for row in rows])
    return {"inputs": (tokens, (tokens > 0).float()), "label": labels}


class Moods(meadow.Task):
    shown = {"accuracy": "max", "loss": "min"}
    collate = staticmethod(padded)

    def data(self, silo):
        lines = [np.array(line.split(), int) for line in meadow.root_of(silo.data).read_text().splitlines()]
        labels = np.array([int(line.max() > 30) for line in lines])
        rows = [{"tokens": line, "label": int(label)} for line, label in zip(lines, labels)]
        splits = meadow.splits_of(silo, len(rows), labels)
        made = [Sentences([rows[i] for i in part]) for part in (splits.train, splits.validation, splits.test)]
        return meadow.Data(*made, labels=labels[splits.train])

    def model(self, conf):
        return Tied()

    def output(self, model, batch):
        return model(*batch["inputs"])

    def size(self, batch):
        return len(batch["label"])

    def loss(self, output, batch):
        tokens, mask = batch["inputs"]
        words = nn.functional.cross_entropy(output["words"].transpose(1, 2), tokens, reduction="none")
        back = (words * mask).sum() / mask.sum()
        return nn.functional.cross_entropy(output["label"], batch["label"]) + 0.1 * back

    def sums(self, output, batch):
        return {"right": (output["label"].argmax(1) == batch["label"]).sum()}

    def sum_specs(self):
        return {"right": meadow.SumSpec()}

    def metrics(self, sums):
        return {"accuracy": int(sums["right"]) / max(1, int(sums["size"]))}
'''
FORMS = [f"compression={name}" for name in VARIANTS["compression"]]
FORMS += ["compression=int8 compression.down=int8", "compression=topk compression.down=int4"]
RULES = [f"strategy={name} strategy.f=1" for name in COHORT_RULES]
MORE = [
    "strategy=scaffold",
    "strategy=fedprox compression=lowrank",
    "strategy=trimmed_mean compression=int4",
    "strategy=median strategy.bucket=2 compression=topk",
    "strategy.target=flwr.serverapp.strategy.FedAdam strategy.args.eta=0.05 compression=int8",
]
QUICK = ("compression=topk compression.down=int4", "strategy=krum strategy.f=1")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The task's file and its sentences in a folder; returns the overrides that name them."""
    folder = tmp_path_factory.mktemp("stranger")
    rng = np.random.default_rng(0)
    lines = [" ".join(map(str, rng.integers(1, 40, rng.integers(1, 6)))) for _ in range(400)]
    (folder / "moods.txt").write_text("\n".join(lines))
    (folder / "moods.py").write_text(TASK)
    given = [f"task.target={folder}/moods.py:Moods", f"data.root={folder}/moods.txt", "data=iid"]
    return [*given, "federation.size=7", "trainer.lr=0.3", "trainer.batch_size=16"]


def trained(asked: list[str], folder: Path, words: str) -> Any:
    here = [f"run.output={folder}", "simulation.workers=0", "run.rounds=3"]
    return meadow.simulate([*asked, *here, *words.split()])


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, marks=[] if words in QUICK else pytest.mark.slow)
        for words in (*FORMS, *RULES, *MORE)
    ],
)
def test_it_trains_and_the_frozen_layer_stays_as_it_was_drawn(
    asked: list[str], tmp_path: Path, words: str
) -> None:
    run = trained(asked, tmp_path, words)
    assert [record.failed for record in run.rounds] == [{}] * 3
    # With one weight in a hundred of it, it has begun to learn.
    assert run.result.final["loss"] < 0.8
    weights = load_file(run.folder / "model/model.safetensors")
    drawn = protocol.to_state(first_weights(compose([*asked, *words.split()])))
    assert weights.keys() == drawn.keys()
    moved = {name for name, value in weights.items() if not torch.equal(value, drawn[name])}
    assert moved and not {"between.weight", "between.bias"} & moved
    # Each name of a tied weight travels, and nothing of what is frozen.
    values = sum(one.numel() for name, one in weights.items() if not name.startswith("between."))
    if "strategy=" in words and "compression" not in words and "scaffold" not in words:
        assert set(run.rounds[0].bytes_up.values()) == {4 * values}
