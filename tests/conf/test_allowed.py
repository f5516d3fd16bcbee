"""The rules of a policy's allow-list: what follows them, and typing errors that are found where they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from conf.allowed import asked, broken, check_policy, draft, said
from conf.compose import compose
from conf.errors import ConfigError
from conf.schema import PolicyConf
from conf.silos import silo_from_json, silo_to_json, silos

RUN = ["task=digits", "model=mlp"]


def refused(**policy: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        check_policy(PolicyConf(**policy), "silos.north.policy", lambda key: "north.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ([1], [1, 1.0], [2, True, None, "1", [1]]),
        ([None, "x"], [None, "x"], ["y", 0, False]),
        ([True], [True], [1, "true", False]),
        ([[64]], [[64]], [[64, 64], [65], 64, []]),
        ({"at_most": 3}, [3, -5, 2.5, [1, 3], []], [4, True, None, "2", [1, 4], [None]]),
        ({"at_least": 1, "at_most": 2}, [1, 2, 1.5], [0, 3]),
        ({"at_most": 9, "entries_at_most": 2}, [[9, 9], 3], [[1, 1, 1], [10]]),
        ([], [], [None, 0, ""]),
    ],
)
def test_what_follows_a_rule(rule: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert not broken({"k": rule}, {"k": value}), value
    for value in bad:
        assert broken({"k": rule}, {"k": value}), value


def test_a_key_without_a_rule_has_no_value_that_is_allowed() -> None:
    (one,) = broken({}, {"trainer.lr": 0.1})
    assert (one.asked, one.allowed) == ("trainer.lr=0.1", "no value")


def test_a_rule_is_said_in_words() -> None:
    assert said({"at_least": 1, "at_most": 5}) == "at least 1 and at most 5"
    assert said([None, True, "sgd"]) == "null, true, sgd"


def test_an_argument_is_a_key_of_its_own_even_where_it_is_empty() -> None:
    conf = compose(RUN)
    conf.task.args = {"a": {"b": 1, "c": {}}, "d": []}
    found = {key: value for key, value in asked(conf, 1).items() if ".args" in key}
    assert found == {"task.args.a.b": 1, "task.args.a.c": {}, "task.args.d": []}


def test_a_draft_passes_its_own_check_and_the_way_to_a_silo(tmp_path: Path) -> None:
    rules = draft(compose(RUN))
    file = tmp_path / "hospitals.yaml"
    file.write_text(
        yaml.safe_dump({"silos": {"north": {"policy": {"version": 2, "allow": rules}}}})
    )
    conf = compose([*RUN, f"federation.file={file}"])
    (north,) = silos(conf)
    assert north.policy.allow == rules
    assert silo_from_json(silo_to_json(north)) == north


@pytest.mark.parametrize("strategy", ["fedprox", "scaffold"])
@pytest.mark.parametrize("model", ["cnn", "resnet18"])
def test_every_choice_of_this_tree_can_be_drafted(strategy: str, model: str) -> None:
    conf = compose(["task=mnist", f"model={model}", f"strategy={strategy}"])
    check_policy(PolicyConf(version=2, allow=draft(conf)), "policy", lambda key: "here")


def test_rules_in_a_policy_of_version_1_are_no_silent_nothing() -> None:
    error = refused(allow={"trainer.lr": [0.1]})
    assert error.code == "MDW-140" and "version: 2" in error.hint


def test_keys_of_version_1_are_refused_in_version_2_with_what_replaces_each() -> None:
    error = refused(version=2, models=["mlp"], epochs_at_most=2)
    assert error.code == "MDW-140"
    assert "model.name instead of models" in error.hint
    assert "trainer.epochs instead of epochs_at_most" in error.hint


FAULTS = {
    "trainer.lrr": ([1], "Did you mean 'trainer.lr'?"),
    "trainer.optimizer": (["sdg"], "Did you mean 'sgd'?"),
    "trainer.lr": (0.1, "neither a list of values, [0.1], nor a range"),
    "model.name": (["mpl"], "Did you mean 'mlp'?"),
    "model.target": (["x.py:Y"], "'model.target' is not a key"),
    "run.rounds": ({"at_mots": 3}, "Did you mean 'at_most'?"),
    "run.seed": ([1], "'run.seed' is not a key"),
    "trainer.epochs": ({"at_least": 3, "at_most": 2}, "nothing is allowed"),
    "trainer.momentum": ({"at_most": "1"}, "at_most is 1, which is not a number"),
    "trainer.accumulate": ({}, "the range is empty"),
    "model.norm": ({"at_most": 1}, "does not hold numbers"),
    "trainer.threads": (["two"], "not a whole number"),
    "trainer.batch_size": ([0], "must be at least 1"),
    "task.args": ([1], "'task.args' is not a key"),
    "data.root": (["/x"], "'data.root' is not a key"),
    "privacy.args.x": ([1], "'privacy.args.x' is not a key"),
}


def test_every_typing_error_is_found_where_the_file_is_read_and_all_at_once() -> None:
    error = refused(version=2, allow={key: rule for key, (rule, _) in FAULTS.items()})
    assert error.code == "MDW-141" and "north.yaml" in str(error)
    for key, (_, words) in FAULTS.items():
        assert words in str(error), key


def test_arguments_of_a_task_may_have_any_name() -> None:
    allow = {
        "task.args.depth": [1, "x"],
        "strategy.args.eta": {"at_most": 1},
        "model.args.a.b": [1],
    }
    check_policy(PolicyConf(version=2, allow=allow), "policy", lambda key: "here")
