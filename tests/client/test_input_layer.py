"""A model behind its task's first layer."""

from __future__ import annotations

import torch
from torch import nn

from client.input_layer import WithInputLayer


class Doubled(nn.Module):
    shape = (2,)

    def forward(self, examples: torch.Tensor) -> torch.Tensor:
        return 2 * examples


def test_the_model_gets_what_the_layer_makes_of_the_examples() -> None:
    model = WithInputLayer(Doubled(), nn.Identity())

    assert model(torch.ones(1, 2)).tolist() == [[2, 2]]


def test_layer_and_model_have_names_of_their_own_in_a_file_of_weights() -> None:
    model = WithInputLayer(nn.BatchNorm1d(2), nn.Linear(2, 1))

    names = {name.partition(".")[0] for name in model.state_dict()}
    assert names == {"input", "model"}
