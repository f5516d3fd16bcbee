"""Completion offers verbs, keys, values and runs, in each shell, and imports nothing heavy for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from azureml_jobs.cli.completion import SCRIPTS, candidates
from azureml_jobs.cli.main import main
from azureml_jobs.cli.verbs import VERBS
from conf.config_groups import groups, options
from conf.key_list import keys

BIN = Path(sys.executable).parent
ENVIRONMENT = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def words(line: str) -> list[str]:
    """Return the words that complete the end of a line."""
    return [word for word, _ in candidates(line.split(" ")[1:])]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two runs, and with one in another place."""
    for run in ("outputs/first", "outputs/second", "elsewhere/third"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "config.yaml").touch()
    (tmp_path / "outputs" / "no-run").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_verb_is_completed_word_by_word() -> None:
    offered = set(words("meadow "))
    for name in VERBS:
        first, _, second = name.partition(" ")
        assert first in offered
        if second:
            assert second in words(f"meadow {first} ")
    assert words("meadow sim") == ["simulate"]


def test_every_key_and_group_is_completed_where_a_verb_takes_them_all() -> None:
    offered = set(words("meadow simulate "))
    assert {f"{key.path}=" for key in keys() if "NAME" not in key.path} <= offered
    assert {f"{group}=" for group in groups()} <= offered
    assert "--no-progress" in offered


def test_a_verb_is_offered_only_what_it_takes_and_what_was_not_given() -> None:
    assert words("meadow version ") == ["--help"]
    offered = words("meadow wait run=a ")
    assert "federation.name=" in offered and "timeout=" in offered
    assert "run=" not in offered and "trainer.lr=" not in offered


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("meadow simulate trainer.optimizer=", ["sgd", "adam", "adamw"]),
        ("meadow simulate trainer.optimizer=a", ["adam", "adamw"]),
        ("meadow simulate data.download=", ["true", "false"]),
        ("meadow launch all backend=", ["local", "azure"]),
        ("meadow evaluate run=", ["first", "second"]),
        ("meadow simulate run.resume=s", ["second"]),
        ("meadow simulate run.output=elsewhere run.resume=", ["third"]),
        ("meadow simulate model.init=f", ["first"]),
        ("meadow simulate task=", options("task")),
        ("meadow simulate run.rounds=", []),
    ],
)
def test_values_are_completed_where_they_are_known(
    runs: Path, line: str, expected: list[str]
) -> None:
    key = line.split(" ")[-1].partition("=")[0]
    assert words(line) == [f"{key}={value}" for value in expected]


def test_names_of_tasks_models_strategies_and_experiments_are_completed() -> None:
    assert {"task.name=digits", "task.name=mnist"} <= set(words("meadow simulate task.name="))
    assert "strategy.name=fedprox" in words("meadow simulate strategy.name=f")
    assert "model=cnn" in words("meadow simulate model=")
    assert "experiment=quickstart" in words("meadow simulate experiment=")


def test_an_answer_imports_nothing_heavy() -> None:
    code = (
        "import sys; from azureml_jobs.cli.main import main; "
        "main(['completion', 'candidates', 'simulate', '']); "
        "main(['completion', 'candidates', 'simulate', 'task.name=']); "
        "heavy = {'torch', 'flwr', 'hydra', 'omegaconf', 'numpy', 'azure'} & set(sys.modules); "
        "sys.exit(f'{heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_a_shell_s_script_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == SCRIPTS[shell]
    assert main(["completion", "tcsh"]) == 2
    assert "bash, zsh, fish" in capsys.readouterr().err


BASH = """
eval "$(meadow completion bash)"
COMP_LINE="$1"
COMP_POINT=${#COMP_LINE}
compopt() { :; }
_meadow
printf '%s\\n' "${COMPREPLY[@]}"
"""
ZSH = """
compdef() { :; }
compadd() {
    local name="${@[-1]}"
    print -rl -- "${(@P)name}"
}
_files() { :; }
eval "$(meadow completion zsh)"
words=("${(@s: :)1}")
CURRENT=${#words}
_meadow
"""
FISH = """
meadow completion fish | source
complete -C "$argv[1]"
"""
HOW = {"bash": [BASH, "bash"], "zsh": [ZSH, "zsh"], "fish": [FISH]}


def completed(shell: str, line: str) -> list[str]:
    """Return what a shell itself offers at the end of a line."""
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    done = subprocess.run(
        [shell, "-c", *HOW[shell], line],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    # fish shows after a tab what a word is.
    return sorted(line.partition("\t")[0] for line in done.stdout.splitlines())


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_a_shell_completes_a_verb_and_a_key(shell: str) -> None:
    assert completed(shell, "meadow simu") == ["simulate"]
    assert completed(shell, "meadow simulate run.ro") == ["run.round_timeout=", "run.rounds="]


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_a_shell_completes_a_value_and_a_run(shell: str, runs: Path) -> None:
    # bash breaks a word at its equals sign, and wants what stands behind it.
    begin = "" if shell == "bash" else "run="
    assert completed(shell, "meadow evaluate run=") == [f"{begin}first", f"{begin}second"]
