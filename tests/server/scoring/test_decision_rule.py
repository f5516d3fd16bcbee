"""What is said of outputs: by the operating point where there is one, else the likeliest."""

from __future__ import annotations

import pytest
import torch

from client.tasks import task_of
from client.tasks.base import Task
from conf.schema import TableConf
from server.scoring.decision_rule import DecisionRule, probable

NUMBER = {"name": "x", "low": 0.0, "high": 1.0}


def task(**more: object) -> Task:
    return task_of(TableConf(name="table", **more))  # type: ignore[arg-type]


def ill() -> Task:
    label = {"name": "y", "type": "category", "values": ["well", "ill"]}
    return task(columns=[NUMBER, label], label="y")


def flags() -> Task:
    both = [{"name": name, "type": "flag"} for name in ("a", "b")]
    return task(columns=[NUMBER, *both], labels=["a", "b"])


def test_without_a_point_it_is_the_likeliest_class() -> None:
    said = list(DecisionRule().said(ill(), torch.tensor([[1.0, 0.0], [0.0, 1.0]])))
    assert [row[0] for row in said] == ["well", "ill"]
    assert probable(ill()) == ("well", "ill")


def test_from_the_threshold_on_it_is_the_second_class() -> None:
    rule = DecisionRule({"ill": -2.0}, 2.0)
    said = list(rule.said(ill(), torch.tensor([[2.0, 0.0], [2.5, 0.0]])))
    assert [row[0] for row in said] == ["ill", "well"]
    assert float(said[0][2]) == pytest.approx(torch.tensor(-1.0).sigmoid().item(), abs=1e-6)


def test_each_flag_has_its_own_threshold() -> None:
    rule = DecisionRule({"a": 1.0})
    said = list(rule.said(flags(), torch.tensor([[0.5, 0.5], [1.0, -1.0], [2.0, 2.0]])))
    assert [row[0] for row in said] == ["b", "a", "a+b"]
