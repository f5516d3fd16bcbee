"""A target becomes a name and a digest when a configuration is composed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from conf.compose import compose
from conf.errors import ConfigError
from conf.resume import stored
from conf.schema import Conf, ExternalModelConf, ExternalStrategyConf
from conf.targets.resolve import resolved


@pytest.fixture
def wine(tmp_path: Path) -> Path:
    file = tmp_path / "wine.py"
    file.write_text("class Wine: pass\nclass Net: pass\n")
    return file


def refused(*overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        compose(list(overrides))
    return caught.value


def test_a_target_alone_chooses_its_group(wine: Path) -> None:
    conf = compose(
        [
            f"task.target={wine}:Wine",
            "task.args.hidden=32",
            f"model.target={wine}:Net",
            f"strategy.target={wine}:Wine",
        ]
    )
    assert (conf.task.name, conf.task.args) == ("wine.Wine", {"hidden": 32})
    assert isinstance(conf.model, ExternalModelConf) and conf.model.name == "wine.Net"
    assert isinstance(conf.strategy, ExternalStrategyConf)
    assert conf.task.code == conf.model.code == conf.strategy.code != ""


def test_a_misspelt_class_is_told_without_running_the_file(wine: Path) -> None:
    wine.write_text("raise SystemExit\nclass Wine: pass\n")
    wine.write_text("class Wine: pass\n")
    error = refused(f"task.target={wine}:Wyne")
    assert error.code == "MDW-170" and "Did you mean 'Wine'?" in error.hint


def test_a_digest_that_is_given_must_be_that_of_the_code(wine: Path) -> None:
    target = f"task.target={wine}:Wine"
    code = compose([target]).task.code
    assert compose([target, f"task.code={code}"]).task.code == code
    assert refused(target, f"task.code={'0' * 64}").code == "MDW-177"


def test_a_file_with_the_name_of_a_task_of_this_tree_is_another_name(tmp_path: Path) -> None:
    (tmp_path / "digits.py").write_text("class Digits: pass\n")
    conf = compose([f"task.target={tmp_path}/digits.py:Digits"])
    assert conf.task.name == "digits.Digits"


def test_an_unknown_task_is_told_when_composed() -> None:
    error = refused("task.name=digit")
    assert error.code == "MDW-102" and "Did you mean 'digits'?" in error.hint


def write_run(folder: Path, conf: Conf) -> Path:
    run = folder / "outputs/first"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(asdict(conf)))
    return run


def test_a_run_is_resumed_with_the_same_code_wherever_it_lies(wine: Path, tmp_path: Path) -> None:
    conf = compose([f"task.target={wine}:Wine"])
    run = write_run(tmp_path, conf)
    resume = f"run.resume={run}"
    assert compose([resume]).task == conf.task
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "wine.py").write_text(wine.read_text() + "# a comment\n")
    wine.write_text("class Wine: changed = True\n")
    error = refused(resume)
    assert error.code == "MDW-177" and "stored run" in error.message
    assert compose([resume, f"task.target={moved}/wine.py:Wine"]).task.code == conf.task.code
    assert refused(resume, f"model.target={moved}/wine.py:Net").code == "MDW-185"


def test_a_run_whose_code_lies_nowhere_here_says_what_to_add(wine: Path, tmp_path: Path) -> None:
    conf = compose([f"task.target={wine}:Wine"])
    conf.task.target = ""
    conf.task.code = "1" * 64
    run = write_run(tmp_path, conf)
    with pytest.raises(ConfigError, match=r"MDW-177.*task.target=FILE.py:Wine"):
        resolved(stored(run), lambda key: "the run first")
