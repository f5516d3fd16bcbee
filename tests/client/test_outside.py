"""A silo runs a task or model from outside this tree only where its own job was given it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from client.models import build_model
from client.policy import check_run
from client.tasks import task_named, task_of
from conf.compose import compose
from conf.errors import ConfigError, DataError, SiloError
from conf.schema import Conf, PolicyConf, Silo
from conf.targets import known
from strategies.wire.run_config import pack, unpack

WINE = """
import torch
from torch import nn
from client.tasks.base import Data, Task

class Wine(Task):
    def __init__(self, hidden: int = 4):
        self.hidden = hidden
    def data(self, silo):
        raise NotImplementedError
    def loss(self, output, batch):
        return output.sum()

class Half(Task):
    def data(self, silo):
        raise NotImplementedError

def net(width: int, contract):
    return nn.Linear(contract.shape[-1], width)

def nothing():
    return 3

torch.manual_seed(99)
"""


@pytest.fixture
def wine(tmp_path: Path) -> str:
    (tmp_path / "wine.py").write_text(WINE)
    return f"{tmp_path}/wine.py"


def composed(wine: str, *more: str) -> Conf:
    return compose([f"task.target={wine}:Wine", "task.args.hidden=8", *more])


def test_a_task_is_made_with_its_arguments_once(wine: str) -> None:
    conf = composed(wine)
    task = task_of(conf.task)
    assert (task.name, task.hidden) == ("wine.Wine", 8)  # type: ignore[attr-defined]
    assert task_of(conf.task) is task
    assert task_of(composed(wine, "task.args.hidden=9").task) is not task


def test_the_task_s_own_model_is_chosen_where_no_other_is(wine: str) -> None:
    assert composed(wine).model.name == "task"
    assert composed(wine, "model=cnn").model.name == "cnn"
    assert composed(wine, f"model.target={wine}:net", "model.args.width=2").model.name == "wine.net"


@pytest.mark.parametrize(
    ("attribute", "says"),
    [("Half", "does not say: loss"), ("net", "is no class derived"), ("torch", "is no class")],
)
def test_what_is_no_whole_task_is_said(wine: str, attribute: str, says: str) -> None:
    conf = compose([f"task.target={wine}:{attribute}"])
    with pytest.raises(ConfigError, match="MDW-172") as caught:
        task_of(conf.task)
    assert says in str(caught.value)


def test_a_model_gets_arguments_and_contract_and_first_weights_of_the_seed_alone(wine: str) -> None:
    conf = compose([f"model.target={wine}:net", "model.args.width=2"])
    digits = task_named("digits")
    model = build_model(conf.model, digits, seed=1)
    assert isinstance(model, nn.Linear) and model.weight.shape == (2, 8)
    again = build_model(conf.model, digits, seed=1)
    assert torch.equal(model.weight, again.weight)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"MDW-172.*makes a int"):
        build_model(compose([f"model.target={wine}:nothing"]).model, digits, seed=1)


def test_a_model_that_has_to_be_given_a_contract_needs_a_task_that_has_one(wine: str) -> None:
    digits = task_named("digits")
    without = type(digits)()
    without.name = "mine"
    without.contract = None
    with pytest.raises(DataError, match=r"MDW-212: model=wine\.net: the task mine has no contract"):
        build_model(composed(wine, f"model.target={wine}:net").model, without, seed=1)


def at_a_silo(conf: Conf, monkeypatch: pytest.MonkeyPatch, listed: str) -> None:
    """Let a run reach a silo whose job was started with a list."""
    text = pack(conf)
    monkeypatch.setattr(known, "_own", {})
    monkeypatch.setenv(known.VARIABLE, listed)
    check_run(unpack(text), Silo("north"), 1)


def test_a_silo_that_was_not_given_the_code_refuses_by_name(
    wine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SiloError, match=r"MDW-346: north: .*wine\.Wine.*task\.target=FILE"):
        at_a_silo(composed(wine), monkeypatch, "[]")


def test_a_silo_with_an_edited_file_refuses_and_one_with_the_same_takes_part(
    wine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = composed(wine)
    entry = known.find("task", conf.task.name, conf.task.code)
    other = dataclasses.replace(entry, code="0" * 64)
    at_a_silo(conf, monkeypatch, known.to_text([entry]))
    with pytest.raises(SiloError, match=r"MDW-347: north"):
        at_a_silo(conf, monkeypatch, known.to_text([other]))


def test_an_owner_s_policy_takes_names_from_outside(wine: str) -> None:
    scope = unpack(pack(composed(wine)))
    check_run(scope, Silo("north", policy=PolicyConf(tasks=["wine.Wine"])), 1)
    with pytest.raises(SiloError, match="MDW-341"):
        check_run(scope, Silo("north", policy=PolicyConf(tasks=["wine", "digits"])), 1)


def test_a_name_without_a_digest_is_refused(wine: str) -> None:
    scope = unpack(pack(composed(wine)))
    scope.task.code = ""
    with pytest.raises(SiloError, match=r"MDW-347.*is of no digest"):
        check_run(scope, Silo("north"), 1)
