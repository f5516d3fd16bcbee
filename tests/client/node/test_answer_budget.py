"""A silo's answers are counted where no restart, no clock and no copy of an instruction changes the count."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from azureml_jobs.storage.folder_store import FolderStore
from client.node.answer_budget import AnswerBudget, budget_of, is_refused
from client.node.state_store import SiloStateStore
from conf.compose import compose
from conf.errors import CheckpointError, SiloError
from conf.schema import PolicyConf, Silo
from strategies.wire import protocol, run_config

pytestmark = pytest.mark.usefixtures("task_identity")
DAY = date(2026, 3, 1)


class Days:
    """A silo's days, and budgets of its processes, one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.today = DAY

    def process(self, most: int, days: int | None = None, version: int = 1) -> AnswerBudget:
        states = SiloStateStore(lambda: FolderStore(self.folder), "north")
        self.states = states
        policy = PolicyConf(version=version, answers_at_most=most, answers_days=days)
        return AnswerBudget(states, policy, "north", lambda: self.today)


@pytest.fixture
def days(tmp_path: Path) -> Days:
    return Days(tmp_path)


def message(kind: str = "train", *words: str) -> Message:
    text = run_config.pack(compose(["task=digits", "model=mlp", *words]))
    config = ConfigRecord({protocol.ROUND: 1, protocol.RUN_CONFIG: text})
    return Message(RecordDict({protocol.CONFIG: config}), 2, kind)


def test_so_many_answers_are_given_and_no_more(days: Days) -> None:
    budget = days.process(3)
    for number, kind in enumerate(["train", "evaluate", "train"]):
        budget.charge(message(kind), f"instruction-{number}")
    with pytest.raises(SiloError, match=r"MDW-352: north has given 3 of the 3 answers that"):
        budget.charge(message("evaluate"), "another")
    budget.charge(message("query.hello"), "a question costs none")


def test_the_statistics_before_a_run_are_an_answer(days: Days) -> None:
    budget = days.process(1)
    budget.charge(message(protocol.STATISTICS), "one")
    with pytest.raises(SiloError, match="MDW-352"):
        budget.charge(message(protocol.STATISTICS, "run.seed=1"), "another")


def probe(high: int) -> Message:
    """A question whether the silo keeps a contract of the server's making."""
    age = f"{{name: age, type: number, low: 0, high: {high}}}"
    columns = f"task.columns=[{age}, {{name: ill, type: flag}}]"
    return message(protocol.READINESS, "task=table", columns, "task.label=ill")


def test_under_version_1_each_question_about_a_contract_is_an_answer(days: Days) -> None:
    """A server could halve a column's range with each, to the last digit of its largest value."""
    budget = days.process(3)
    for number, high in enumerate([64, 32, 48]):
        asked = probe(high)
        budget.charge(asked, f"contract {number}")
        budget.charge(asked, f"contract {number}")
    with pytest.raises(SiloError, match="MDW-352"):
        budget.charge(probe(56), "a fourth one")


def test_under_version_2_the_contracts_are_the_owner_s_and_a_question_costs_none(
    days: Days,
) -> None:
    budget = days.process(1, version=2)
    for number in range(5):
        budget.charge(message(protocol.READINESS), f"question {number}")
    budget.charge(message(), "one")
    with pytest.raises(SiloError, match="MDW-352"):
        budget.charge(message(), "two")


def test_no_restart_gives_an_answer_back_and_a_copy_costs_none(days: Days) -> None:
    first = days.process(2)
    first.charge(message(), "one")
    days.states.close()
    second = days.process(2)
    second.charge(message(), "one")
    second.charge(message(), "two")
    second.charge(message(), "two")
    days.states.close()
    with pytest.raises(SiloError, match="MDW-352"):
        days.process(2).charge(message(), "three")


def test_a_day_is_forgotten_after_its_time_and_a_clock_set_back_forgets_nothing(days: Days) -> None:
    budget = days.process(1, days=2)
    budget.charge(message(), "one")
    for today in (DAY, date(2026, 3, 2), date(2026, 2, 1)):
        days.today = today
        with pytest.raises(SiloError, match=r"MDW-352.*1 of the 1 answers in 2 days"):
            budget.charge(message(), f"on {today}")
    days.today = date(2026, 3, 3)
    budget.charge(message(), "two")


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"\xff"])
def test_a_damaged_count_is_not_taken_for_none(days: Days, damage: bytes) -> None:
    days.process(5).charge(message(), "one")
    days.states.close()
    (days.folder / "north/answers.json").write_bytes(damage)
    with pytest.raises(CheckpointError):
        days.process(5).charge(message(), "two")


def test_a_run_that_is_refused_costs_nothing_and_one_that_can_t_be_read_does() -> None:
    closed = Silo("north", policy=PolicyConf(models=["cnn"]))
    assert is_refused(message(), closed)
    assert not is_refused(message("train", "model=cnn"), closed)
    config = RecordDict({protocol.CONFIG: ConfigRecord({protocol.RUN_CONFIG: "{"})})
    assert not is_refused(Message(config, 2, "train"), closed)
    assert not is_refused(Message(RecordDict(), 2, "train"), closed)


def test_without_storage_there_is_no_budget() -> None:
    assert budget_of(PolicyConf(), None, "north") is None
    with pytest.raises(SiloError, match="MDW-357"):
        budget_of(PolicyConf(answers_at_most=1), None, "north")
