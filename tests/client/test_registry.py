"""Names stand for modules of this tree and for nothing else."""

from __future__ import annotations

import sys

import pytest

import client.models
import client.tasks
from client.models import build_model
from client.registry import registered
from client.tasks import task_named
from client.tasks.base import Task
from conf.errors import ConfigError
from conf.schema import EXTERNAL, VARIANTS, ModelConf


def test_the_models_are_those_of_the_schema() -> None:
    assert set(registered(client.models)) == set(VARIANTS["model"]) - {EXTERNAL}


def test_every_task_listed_can_be_had_under_its_own_name() -> None:
    # What these are says their contract alone.
    names = set(registered(client.tasks)) - {"table", "images"}
    assert {"digits", "mnist"} <= names
    assert all(
        isinstance(task_named(name), Task) and task_named(name).name == name for name in names
    )


def test_the_tasks_are_those_of_the_schema() -> None:
    assert set(registered(client.tasks)) == set(VARIANTS["task"]) - {EXTERNAL}


@pytest.mark.parametrize(
    "name", ["os.path", "..app", "base", "", "mnist.task", "__init__", "antigravity"]
)
def test_nothing_else_is_imported(name: str) -> None:
    before = set(sys.modules)
    with pytest.raises(ConfigError, match="MDW-102"):
        task_named(name)
    with pytest.raises(ConfigError, match="MDW-102"):
        build_model(ModelConf(name=name), task_named("digits"), 0)
    assert set(sys.modules) == before


def test_a_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'digits'"):
        task_named("digit")
