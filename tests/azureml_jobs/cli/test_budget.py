"""What `meadow budget` says to a silo's owner, and `budget forecast` of a run that nobody has made."""

from __future__ import annotations

from pathlib import Path

import pytest

from azureml_jobs.cli import budget
from azureml_jobs.cli.arguments import parse
from azureml_jobs.cli.verbs import KEYS, find
from azureml_jobs.identity.node_key import data_key_of, fresh_node_key, load_node_key, node_secret
from azureml_jobs.identity.secret_store import FolderSecrets
from client.node import job
from client.privacy.account import Account
from client.privacy.accountant import Release, epsilon
from conf.errors import CheckpointError, ConfigError
from conf.schema import PolicyConf

ROUND = Release(0.1, 2.0, 10)
SECRET = node_secret("federation", "north")
PRIVATE = ["privacy=sample_dp", "strategy.weighting=equal", "run.rounds=3"]


def type_budget(*words: str) -> int:
    """Type `meadow budget ...`."""
    verb, rest = find(["budget", *words])
    assert not isinstance(verb, str)
    return verb.function()(parse(verb, rest, KEYS))


@pytest.fixture
def desk(tmp_path: Path) -> list[str]:
    """Where north's key is, and its job's state."""
    FolderSecrets(tmp_path / "keys").set(SECRET, fresh_node_key()[0])
    return [f"state={tmp_path / 'state'}", f"keys={tmp_path / 'keys'}"]


def account(folder: Path) -> Account:
    key = load_node_key((folder / "keys" / SECRET).read_bytes(), SECRET)
    return Account.at(str(folder / "state" / job.OWN_STATES), "north", data_key_of(key))


def test_it_looks_where_the_silo_s_job_keeps_its_state() -> None:
    assert budget.OWN_STATES == job.OWN_STATES


def test_an_owner_sees_what_each_run_cost_and_all_together(
    desk: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert type_budget("north", "--begin", *desk) == 0
    assert "begun" in capsys.readouterr().out
    for run in ("one", "one", "two"):
        account(tmp_path).reserve(run, 1, ROUND, PolicyConf())
    bound = "federation.silos={north:{policy:{epsilon_at_most:8}}}"
    assert type_budget("north", *desk, bound) == 0
    told = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in told.splitlines() if line}
    all_of_it = epsilon([ROUND] * 3, 1e-5)
    assert rows["one"][1:4] == ["sample_dp", "example", "2"]
    assert rows["two"][1:4] == ["sample_dp", "example", "1"]
    assert rows["two"][-1] == f"{all_of_it:.3f}" and f"epsilon {all_of_it:.3f} at" in told
    assert f"{all_of_it / 8:.0%} of 8" in told


def test_what_examples_and_what_the_silo_have_paid_are_two_sums(
    desk: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    type_budget("north", "--begin", *desk)
    change = Release(1.0, 2.0, 1)
    account(tmp_path).reserve("one", 1, ROUND, PolicyConf())
    account(tmp_path).reserve("two", 1, change, PolicyConf(), "silo_dp")
    account(tmp_path).reserve("three", 1, change, PolicyConf(), "local_dp")
    capsys.readouterr()
    bound = "federation.silos={north:{policy:{silo_epsilon_at_most:20}}}"
    assert type_budget("north", *desk, bound) == 0
    told = capsys.readouterr().out
    of_examples = epsilon([ROUND, change], 1e-5)
    of_silo = epsilon([change] * 2, 1e-5)
    assert f"epsilon {of_examples:.3f} at delta 1e-05, of one example more or less" in told
    assert f"epsilon {of_silo:.3f} at delta 1e-05, of the silo with any other data" in told
    assert f"{of_silo / 20:.0%} of 20" in told
    assert told.count("bounds nothing there: 1 release\n") == 2


def test_what_groups_have_paid_is_a_line_of_its_own(
    desk: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    type_budget("north", "--begin", *desk)
    account(tmp_path).reserve("one", 1, ROUND, PolicyConf(), unit="group")
    capsys.readouterr()
    bound = "federation.silos={north:{policy:{unit_at_least:group,epsilon_at_most:8}}}"
    assert type_budget("north", *desk, bound) == 0
    told = capsys.readouterr().out
    once = epsilon([ROUND], 1e-5)
    assert f"epsilon {once:.3f} at delta 1e-05, of one group of examples more or less" in told
    assert f"{once / 8:.0%} of 8" in told
    each = epsilon([], 1e-5, [ROUND])
    assert f"epsilon {each:.3f} at delta 1e-05, of one example more or less; no bound" in told


def test_a_forecast_of_groups_asks_how_many_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [*PRIVATE, "privacy.unit=group", "trainer.batch_size=10", "privacy.epsilon=2"]
    assert type_budget("forecast", "groups=100", "examples=500", *words) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["steps"] == "10 in each, of 10 groups on average"
    assert rows["epsilon"].endswith("of one group")
    with pytest.raises(ConfigError, match="groups= is missing"):
        type_budget("forecast", "examples=500", *words)


def test_an_account_that_was_not_begun_is_told_as_such(desk: list[str]) -> None:
    with pytest.raises(CheckpointError, match=r"MDW-540: .*--begin"):
        type_budget("north", *desk)


def test_another_key_goes_on_where_the_owner_says_so(
    desk: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    type_budget("north", "--begin", *desk)
    account(tmp_path).reserve("one", 1, ROUND, PolicyConf())
    (tmp_path / "keys" / SECRET).unlink()
    FolderSecrets(tmp_path / "keys").set(SECRET, fresh_node_key()[0])
    with pytest.raises(CheckpointError, match="MDW-540"):
        type_budget("north", *desk)
    capsys.readouterr()
    assert type_budget("north", "--continue", *desk) == 0
    assert "goes on with this key" in capsys.readouterr().out
    assert [one.run for one in account(tmp_path).entries()] == ["one"]


def test_a_forecast_says_what_a_run_would_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert type_budget("forecast", "examples=500", *PRIVATE, "privacy.epsilon=2") == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["rounds"] == "3" and rows["steps"].startswith("16 in each")
    assert rows["epsilon"].startswith(("1.99", "2.000"))


@pytest.mark.parametrize(("kind", "deviation"), [("silo_dp", "0.0225"), ("local_dp", "0.225")])
def test_a_forecast_of_silos_says_the_noise_beside_a_change(
    kind: str, deviation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = ["privacy.epsilon=null", "privacy.noise_multiplier=2.25", "federation.size=100"]
    words = [f"privacy={kind}", "strategy.weighting=equal", "run.rounds=3", *noise]
    assert type_budget("forecast", *words) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["rounds"] == "3, of 100 silos each"
    assert f"{deviation} in each weight, beside a change of norm 1 at most" in rows["in"]
    cost = epsilon([Release(1.0, 1.125, 1)] * 3, 1e-5)
    assert rows["epsilon"] == f"{cost:.3f} at delta 1e-05, of one silo"
    assert rows["relation"] == "replace-one"


def test_a_forecast_counts_the_metrics_that_are_told_with_noise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [
        *PRIVATE,
        "privacy.epsilon=2",
        "privacy.metrics_epsilon=0.5",
        "privacy.metrics_every=2",
    ]
    assert type_budget("forecast", "examples=500", *words) == 0
    told = capsys.readouterr().out
    assert "told 3 times" in told
    assert 1.9 < float(told.split("\nepsilon")[1].split()[0]) <= 2.0


def test_a_forecast_of_a_run_without_privacy_is_refused() -> None:
    with pytest.raises(ConfigError, match="MDW-105"):
        type_budget("forecast", "examples=500")
