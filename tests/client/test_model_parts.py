"""Which arrays are trained and which frozen: as the model is built, whatever is done to one later."""

from __future__ import annotations

import pytest
from torch import nn

from client import model_parts as module
from client.model_parts import ModelParts, model_parts
from client.models import build_model
from client.tasks import task_of
from conf.compose import compose


class Half(nn.Module):
    """A frozen layer, a trained one, a weight of two names and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.body.requires_grad_(False)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2, bias=False)
        self.tied = nn.Linear(4, 2, bias=False)
        self.tied.weight = self.head.weight


def parts_of(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> ModelParts:
    monkeypatch.setattr(module, "build_model", lambda conf, task, seed: model)
    monkeypatch.setattr(module, "_last", [])
    conf = compose(["task=digits"])
    return model_parts(conf.model, conf.task, task_of(conf.task))


def test_frozen_weights_and_buffers_are_told_from_what_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = parts_of(Half(), monkeypatch)
    assert parts.frozen == {"body.weight", "body.bias"}
    assert parts.trained == {"norm.weight", "norm.bias", "head.weight", "tied.weight"}
    assert parts.parameters == (parts.frozen | parts.trained) - {"tied.weight"}


def test_a_model_of_this_tree_is_looked_at_once_and_without_memory() -> None:
    conf = compose(["task=digits", "model=resnet18"])
    task = task_of(conf.task)
    parts = model_parts(conf.model, conf.task, task)
    built = build_model(conf.model, task, 0)
    assert parts.trained == dict(built.named_parameters()).keys() == parts.parameters
    assert not parts.frozen
    assert model_parts(conf.model, conf.task, task) is parts
    other = compose(["task=digits", "model=mlp"])
    assert model_parts(other.model, other.task, task) is not parts
