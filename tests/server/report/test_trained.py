"""What a run trained is told from its configuration's plain values, whatever release wrote them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from conf.compose import compose
from server.report.trained import MOST_BYTES, flat, read_config, what_was_trained


def told(*overrides: str) -> dict[str, str]:
    return dict(what_was_trained(asdict(compose(list(overrides)))))


def test_it_names_model_task_training_data_rounds_and_seed() -> None:
    said = told("run.rounds=7", "run.seed=3", "trainer.lr=0.01", "model.hidden=[32,16]")
    assert said["task"] == "digits"
    assert said["model"] == "mlp, hidden [32, 16]"
    assert said["strategy"] == "fedavg, weighting examples"
    assert said["training at a silo"].startswith("optimizer sgd, lr 0.01, momentum 0.9, epochs 1")
    assert "batch size 32" in said["training at a silo"]
    assert said["data"].startswith("partition dirichlet, alpha 0.5, validation 0.1, test 0.1")
    assert (said["rounds"], said["seed"]) == ("7", "3")
    assert "privacy" not in said and "personal layers" not in said


def test_personal_layers_are_told_with_what_the_final_model_has_in_their_place() -> None:
    said = told("strategy.keeps=[fc,head.1]")
    assert said["strategy"] == "fedavg, weighting examples"
    assert said["personal layers"].startswith("fc, head.1: they stay at the silos")


def test_what_means_nothing_is_not_told_and_what_was_changed_is() -> None:
    said = told(
        "data=iid", "trainer=adam", "trainer.clip_norm=1", "run.cohort=2", "data.root=/secret"
    )
    assert "alpha" not in said["data"] and "secret" not in said["data"]
    assert "momentum" not in said["training at a silo"]
    assert "clip norm 1" in said["training at a silo"]
    assert said["rounds"] == "10, 2 silos asked in each"


def test_what_comes_from_outside_is_named_with_its_arguments() -> None:
    config = {
        "task": {"name": "external", "target": "wine.py:Wine", "args": {"hidden": 32}},
        "model": {"name": "task"},
    }
    said = dict(what_was_trained(config))
    assert said["task"] == "external (wine.py:Wine), hidden 32"
    assert said["model"] == "task"


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "a: [", "\0", "run: 3\ntask: []\n", "a: !!python/object:os.system {}", "x" * 100],
)
def test_a_damaged_configuration_costs_the_words_and_no_more(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert what_was_trained(read_config(tmp_path)) == []


def test_a_configuration_that_is_too_large_or_not_there_is_not_read(tmp_path: Path) -> None:
    assert read_config(tmp_path) == {}
    (tmp_path / "config.yaml").write_text("a: 1\n" + "#" * MOST_BYTES)
    assert read_config(tmp_path) == {}


def test_every_value_has_its_dotted_key(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"a": {"b": 1, "c": {}}, "d": [1, 2]}))
    assert flat(read_config(tmp_path)) == {"a.b": "1", "a.c": "{}", "d": "[1, 2]"}
