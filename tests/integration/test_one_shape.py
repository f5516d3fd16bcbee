"""What is in this tree is written as a stranger's own: copied out of it, a file is the same run."""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import client.models
import meadow
from client.registry import module_named
from client.tasks import _arguments, _maker_in
from conf.schema import EXTERNAL, VARIANTS, ModelConf, StrategyConf, TaskConf
from conf.targets.signature import arguments_of, check, parameters
from strategies import _class_in

ROOT = Path(__file__).parents[2]
SMALL = ("data.examples=240", "run.rounds=2", "simulation.workers=0", "trainer.threads=1")


def digest(folder: Path, name: str, *overrides: str) -> str:
    """Return the digest of the model that a small run ends with."""
    output = [f"run.output={folder}", f"run.name={name}"]
    result = meadow.simulate([*SMALL, *output, *overrides]).result
    assert result.model is not None
    found: str = result.model["digest"]
    return found


def made_by(group: str, name: str) -> Any:
    """Return the class or function that makes a task, model or strategy of this tree."""
    if group == "strategy":
        return _class_in(name)
    if group == "task":
        return _maker_in(name)
    return module_named(client.models, name, "model").build


@pytest.mark.parametrize(
    ("group", "name"),
    [
        (g, name)
        for g, names in VARIANTS.items()
        for name in names
        if EXTERNAL in names and name not in (EXTERNAL, "task")
    ],
)
def test_a_dataclass_says_of_each_argument_what_the_constructor_says(group: str, name: str) -> None:
    """Names, types and defaults: the dataclass adds limits and a text, and nothing of its own."""
    of_all = {"model": ModelConf, "strategy": StrategyConf, "task": TaskConf}[group]
    chosen = VARIANTS[group][name]()
    declared = _arguments(chosen) if group == "task" else arguments_of(chosen, of_all)
    build = made_by(group, name)
    taken = {n: p.default for n, p in parameters(build).items() if n != "contract"}
    assert {n: list(v) if isinstance(v, tuple) else v for n, v in taken.items()} == declared
    check(build, declared, group, given=("contract",))
    for field in fields(chosen):
        for value in field.metadata.get("one_of", ()) if field.name in declared else ():
            check(build, {field.name: value}, group, given=("contract",))


@pytest.mark.parametrize(
    ("file", "outside", "inside"),
    [
        pytest.param(
            "client/tasks/digits.py",
            ["task.target={}:Digits", "model=cnn"],
            ["task=digits", "model=cnn"],
            id="task",
        ),
        pytest.param(
            "client/models/mlp.py",
            ["model.target={}:build", "model.args.hidden=[16]"],
            ["model=mlp", "model.hidden=[16]"],
            id="model",
        ),
        pytest.param(
            "strategies/fedprox.py",
            ["strategy.target={}:FedProx", "strategy.args.mu=0.5", "model=mlp"],
            ["strategy=fedprox", "strategy.mu=0.5", "model=mlp"],
            id="fedprox",
        ),
        pytest.param(
            "strategies/scaffold.py",
            ["strategy.target={}:Scaffold", "strategy.weighting=equal", "model=mlp"],
            ["strategy=scaffold", "model=mlp"],
            id="scaffold",
        ),
    ],
)
def test_a_copy_outside_the_tree_gives_the_bits_of_the_tree_s_own(
    file: str, outside: list[str], inside: list[str], tmp_path: Path
) -> None:
    copy = shutil.copy(ROOT / file, tmp_path / f"my_{Path(file).name}")
    there = digest(tmp_path, "there", *[one.format(copy) for one in outside])
    assert there == digest(tmp_path, "here", *inside)
