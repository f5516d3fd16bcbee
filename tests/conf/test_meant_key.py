"""A key that is not there is answered with the one that was meant, and texts stay as they were typed."""

from __future__ import annotations

import pytest

from azureml_jobs.cli.main import main
from conf.compose import compose
from conf.errors import ConfigError


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("rounds=3", "Did you mean run.rounds=3?"),
        ("learning_rate=0.1", "Did you mean trainer.lr=0.1?"),
        ("trainer.learning_rate=0.1", "Did you mean trainer.lr=0.1?"),
        ("seed=3", "Did you mean run.seed=3 or data.seed=3?"),
        ("num_clients=9", "Did you mean federation.size=9?"),
        ("trainer.lrr=1", "Did you mean 'lr'?"),
    ],
)
def test_a_key_that_is_not_there_is_answered_with_the_one_that_was_meant(
    typed: str, meant: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        compose([typed])
    assert refused.value.code == "MDW-101" and refused.value.hint == meant


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--rounds", "3"], "Did you mean run.rounds=...?"),
        (["--rounds=3"], "Did you mean run.rounds=3?"),
        (["run.rounds", "3"], "Write run.rounds=VALUE."),
        (["--learning-rate=1", "x"], ""),
    ],
)
def test_a_flag_or_a_word_is_answered_with_the_key(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", *words]) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    "typed", ["1.10", "12e4567", "010", "1_000", "true", "on", "yes", "1e3", "2026-11-25"]
)
def test_a_key_that_takes_a_text_keeps_what_was_typed(typed: str) -> None:
    conf = compose([f"run.name={typed}", f"federation.silos.north.key_vault={typed}"])
    assert conf.run.name == typed
    assert conf.federation.silos["north"].key_vault == typed


def test_null_a_quoted_text_an_interpolation_and_a_number_stay_what_they_are() -> None:
    conf = compose(["run.name='a-b'", "model.init=null", "run.seed=4", "trainer.lr=1e-3"])
    assert (conf.run.name, conf.model.init, conf.run.seed) == ("a-b", None, 4)
    assert conf.trainer.lr == 0.001
    assert compose(["run.seed=7", "run.name=x-${run.seed}"]).run.name == "x-7"


@pytest.mark.parametrize("key", ["run.resume", "model.init", "run.name", "federation.file"])
def test_an_empty_value_is_refused_where_null_is_meant(key: str) -> None:
    with pytest.raises(ConfigError, match=f"MDW-123: {key}= .*is empty"):
        compose([f"{key}="])


def test_one_value_for_a_list_is_answered_with_the_list() -> None:
    with pytest.raises(
        ConfigError, match=r"MDW-103: .*model.hidden is a list.*model.hidden=\[64\]"
    ):
        compose(["model.hidden=64"])


def test_version_is_meadow_s_and_words_that_begin_verbs_explain_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["simulate", "--version"]) == 0
    assert capsys.readouterr().out.startswith("meadow ")
    assert main(["launch"]) == main(["keys"]) == 0


def test_a_finished_run_may_be_named_without_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("evaluate", "report"):
        assert main([verb, "nowhere"]) == 2
        assert "MDW-183: There is no run 'nowhere'" in capsys.readouterr().err
