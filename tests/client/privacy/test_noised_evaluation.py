"""An evaluation of a private run, asked as a server asks it: noised once, noted first, never again."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message

from client.app import app
from client.batches import length
from client.privacy import noised_evaluation, private_round
from client.privacy.account import Account
from client.privacy.accountant import epsilon
from client.privacy.noised_sums import NoisedSums
from client.tasks import task_named
from conf.compose import compose
from conf.errors import CheckpointError, SiloError
from conf.privacy_kinds import NOISED_METRICS, SAMPLE_DP
from conf.schema import RUN_SCOPE, Conf, PolicyConf, RunScope
from conf.silos import silos
from server.round.reply_numbers import MAX_EXAMPLES
from server.run.privacy_spent import sentences
from server.simulation import simulate
from strategies.wire import protocol
from tests.client.privacy.test_private_round import KEY, asked, at_a_silo, metrics

pytestmark = pytest.mark.usefixtures("task_identity")
NOISED = [
    "task=digits",
    "data.examples=400",
    "federation.size=2",
    "privacy=sample_dp",
    "strategy.weighting=equal",
    "privacy.epsilon=null",
    "privacy.noise_multiplier=1.5",
    "privacy.metrics_epsilon=2",
    "privacy.metrics_every=1",
    "run.rounds=2",
]
"""Three evaluations: of each round, and the test."""


def run(*more: str) -> Conf:
    return compose([*NOISED, *more])


def evaluation(conf: Conf, round: int = 1, split: str = protocol.VALIDATION) -> Message:
    message = asked(conf, "evaluate", round=round)
    message.content.config_records[protocol.CONFIG][protocol.SPLIT] = split
    return message


def values(reply: Message) -> dict[str, list[float]]:
    """Return what an answer says; nothing of one that tells nothing."""
    record = protocol.records(reply.content, ArrayRecord).get(protocol.SUMS)
    return {} if record is None else {n: v.tolist() for n, v in protocol.to_state(record).items()}


def noted(conf: Conf, state: Path) -> list[int]:
    entries = Account.at(str(state), silos(conf)[0].name, KEY).entries()
    assert {entry.mechanism for entry in entries} <= {NOISED_METRICS}
    return [entry.round for entry in entries]


def test_the_first_answer_is_noted_and_the_second_is_the_same_and_costs_nothing(
    tmp_path: Path,
) -> None:
    conf = run()
    here = at_a_silo(conf, tmp_path)
    first = app(evaluation(conf), here)
    private_round._account.cache_clear()  # another process
    second = app(evaluation(conf), here)
    assert values(first) == values(second) and set(values(first)) == {"loss", "confusion"}
    assert noted(conf, tmp_path) == [1]
    assert metrics(first)[protocol.EPSILON] == metrics(second)[protocol.EPSILON]
    assert set(metrics(first)) == {
        protocol.NUM_EXAMPLES,
        protocol.EPSILON,
        protocol.RENYI_EPSILON,
        protocol.NOISE,
    }, "and not how many seconds it took, which grow with the examples"
    account = protocol.records(first.content, ConfigRecord)[protocol.ACCOUNT]
    assert len(str(account[protocol.REMINDER])) == 129


def test_it_is_near_the_truth_and_has_other_noise_at_each_silo(tmp_path: Path) -> None:
    conf = run("privacy.metrics_epsilon=900")
    said = values(app(evaluation(conf), at_a_silo(conf, tmp_path / "a")))
    other = values(app(evaluation(conf), at_a_silo(conf, tmp_path / "b")))
    # 21 validation examples of 211, and the least noise that there is.
    assert abs(sum(said["confusion"]) - 21) < 6 * 0.2 * math.sqrt(2 / 0.8)
    assert said != other


def test_no_more_than_was_planned_is_told_whatever_the_server_asks(tmp_path: Path) -> None:
    conf = run("run.rounds=3", "privacy.metrics_every=3")
    here = at_a_silo(conf, tmp_path)
    assert values(app(evaluation(conf, 1), here)) == {}, "not each third round"
    assert list(tmp_path.iterdir()) == []
    told = [app(evaluation(conf, 3), here), app(evaluation(conf, 3, protocol.TEST), here)]
    assert all(values(one) for one in told) and noted(conf, tmp_path) == [3, 3]
    # Another round's test, or the same round of another model, would be one more.
    assert values(app(evaluation(conf, 2, protocol.TEST), here)) == {}
    other = evaluation(conf, 3)
    model = protocol.to_state(protocol.records(other.content, ArrayRecord)[protocol.ARRAYS])
    other.content[protocol.ARRAYS] = protocol.to_record({n: t + 1 for n, t in model.items()})
    assert values(app(other, here)) == {} and noted(conf, tmp_path) == [3, 3]
    spent = Account.at(str(tmp_path), silos(conf)[0].name, KEY).entries()
    assert epsilon([one.release for one in spent], 1e-5) <= 2


@pytest.mark.parametrize(
    "policy",
    [
        PolicyConf(evaluated_examples_at_least=1),
        PolicyConf(cells_at_least=2),
        PolicyConf(metrics_at_least={"accuracy": 1}),
        PolicyConf(reveal_counts=False),
    ],
)
def test_an_owner_with_a_threshold_tells_nothing(tmp_path: Path, policy: PolicyConf) -> None:
    conf = run()
    answer = app(evaluation(conf), at_a_silo(conf, tmp_path, policy))
    assert values(answer) == {} and metrics(answer)[protocol.WITHHELD] == 1
    assert not (tmp_path / silos(conf)[0].name / "answers").exists()


def test_an_owner_s_bound_covers_it_and_nothing_is_evaluated_beyond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = run()
    policy = PolicyConf(epsilon_at_most=0.2)
    here = at_a_silo(conf, tmp_path, policy)
    with pytest.raises(CheckpointError, match="MDW-540"):
        app(evaluation(conf), here)
    Account.at(str(tmp_path), silos(conf)[0].name, KEY).begin()
    monkeypatch.setattr(NoisedSums, "noised", None)
    with pytest.raises(SiloError, match="MDW-373"):
        app(evaluation(conf), here)
    assert noted(conf, tmp_path) == []


def test_a_process_that_dies_before_it_is_noted_never_draws_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = run()
    here = at_a_silo(conf, tmp_path)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(Account, "reserve", killed)
        with pytest.raises(KeyboardInterrupt):
            app(evaluation(conf), here)
    assert noted(conf, tmp_path) == []
    [kept] = (tmp_path / silos(conf)[0].name / "answers").iterdir()
    before = kept.read_bytes()
    monkeypatch.setattr(NoisedSums, "noised", None)
    said = values(app(evaluation(conf), here))
    assert said and kept.read_bytes() == before and noted(conf, tmp_path) == [1]


def test_an_answer_that_is_gone_or_another_is_not_made_anew(tmp_path: Path) -> None:
    conf = run()
    here = at_a_silo(conf, tmp_path)
    app(evaluation(conf), here)
    [kept] = (tmp_path / silos(conf)[0].name / "answers").iterdir()
    kept.write_bytes(kept.read_bytes().replace(b'"noise": ', b'"noise":  '))
    assert values(app(evaluation(conf), here)) == {}, "its digest is another than was noted"
    kept.unlink()
    assert values(app(evaluation(conf), here)) == {} and noted(conf, tmp_path) == [1]


def test_two_processes_of_one_silo_tell_the_same_and_note_it_once(tmp_path: Path) -> None:
    conf = run()
    account = Account.at(str(tmp_path), silos(conf)[0].name, KEY)
    account.begin()
    other = Account.at(str(tmp_path), silos(conf)[0].name, KEY)
    app(evaluation(conf), at_a_silo(conf, tmp_path))
    [entry] = other.entries()
    again = account.reserve(
        "run", 1, entry.release, PolicyConf(), NOISED_METRICS, released=entry.released
    )
    assert again == [entry] and noted(conf, tmp_path) == [1]


def test_no_more_than_was_planned_is_told_to_a_server_that_asks_for_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = run("run.rounds=1")
    here = at_a_silo(conf, tmp_path)
    noised = NoisedSums.noised

    def slowly(form: NoisedSums, *given: Any) -> Any:
        monkeypatch.setattr(NoisedSums, "noised", noised)
        # While this one draws its noise, both that were planned are answered.
        assert values(app(evaluation(conf, 1, protocol.TEST), here))
        assert values(app(evaluation(conf, 2, protocol.TEST), here))
        return noised(form, *given)

    monkeypatch.setattr(NoisedSums, "noised", slowly)
    assert values(app(evaluation(conf), here)) == {}
    assert values(app(evaluation(conf), here)) == {}, "and not when it is asked again"
    assert len(noted(conf, tmp_path)) == 2


def test_an_empty_split_has_noise_as_any_other(tmp_path: Path) -> None:
    conf = run("data.validation=0")
    said = values(app(evaluation(conf), at_a_silo(conf, tmp_path)))
    assert said and sum(said["confusion"]) != 0 and noted(conf, tmp_path) == [1]


def test_each_example_is_evaluated_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    task = type(task_named("digits"))
    plain = task.sums

    def watched(self: object, output: torch.Tensor, batch: object) -> object:
        seen.append(len(output))
        return plain(self, output, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(task, "sums", watched)
    conf = run()
    app(evaluation(conf), at_a_silo(conf, tmp_path))
    assert seen == [1] * length(task_named("digits").data(silos(conf)[0]).validation)


def test_the_kept_answers_are_no_entries_of_the_account(tmp_path: Path) -> None:
    conf = run()
    here = at_a_silo(conf, tmp_path)
    app(evaluation(conf), here)
    trained = app(asked(conf), here)
    assert protocol.records(trained.content, ArrayRecord)[protocol.ARRAYS]
    entries = Account.at(str(tmp_path), silos(conf)[0].name, KEY).entries()
    assert [entry.mechanism for entry in entries] == [NOISED_METRICS, SAMPLE_DP]


def test_a_run_tells_what_its_noise_leaves_with_how_sure_it_is(tmp_path: Path) -> None:
    words = ["tracking=off", "simulation.workers=0", f"run.output={tmp_path}", "run.rounds=1"]
    done = simulate([*NOISED, *words])
    final = done.result.final
    assert 0 <= final["accuracy"] <= 1 and final["accuracy_noise"] > 0
    assert math.isnan(final["f1"]) and final["noised_examples_noise"] > 0
    test = done.result.test
    assert test is not None and test.details == {} and test.chosen == {}
    for silo, spent in done.result.privacy["silos"].items():
        entries = Account.at(str(done.folder / "accounts"), silo, b"").entries()
        assert [entry.mechanism for entry in entries].count(NOISED_METRICS) == 2
        whole = epsilon([entry.release for entry in entries], 1e-5)
        assert spent["epsilon"] == pytest.approx(whole) == test.privacy[silo]["epsilon"]
    [record] = done.rounds
    assert set(record.metrics) == {"silo-1", "silo-2"} and "accuracy_noise" in record.aggregate
    assert "num-examples" not in record.metrics["silo-1"], "the count has noise, and says so"
    assert any("take an epsilon of 2" in said for said in sentences(done.result.privacy))
    texts = [path.read_text() for path in done.folder.rglob("*.md")]
    assert any("±" in text and "standard deviation of that noise" in text for text in texts)


def test_a_server_that_asks_for_groups_gets_no_metrics(tmp_path: Path) -> None:
    conf = run()
    conf.privacy.unit = "group"  # type: ignore[attr-defined]  # of sample_dp; no file says it so
    silo = dataclasses.replace(silos(conf)[0], account=str(tmp_path))
    form = noised_evaluation.Asked("run", 1, protocol.VALIDATION, ArrayRecord(), {})
    scope = RunScope(**{name: getattr(conf, name) for name in RUN_SCOPE})
    here = at_a_silo(conf, tmp_path)
    with pytest.raises(SiloError, match="MDW-368"):
        noised_evaluation.answer(form, task_named("digits"), scope, silo, here, lambda each: 1 / 0)  # type: ignore[arg-type,return-value]
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_told_metrics_of_examples_protects_nothing_else_afterwards(
    tmp_path: Path,
) -> None:
    conf = run("run.rounds=3")
    here = at_a_silo(conf, tmp_path)
    app(evaluation(conf), here)
    words = [word for word in NOISED if "metrics" not in word]
    other = compose([*words, "privacy=local_dp"])
    with pytest.raises(
        SiloError, match=r"MDW-382: .*.noised_metrics. of each example.*of each silo"
    ):
        app(asked(other), here)
    assert noted(conf, tmp_path) == [1], "nothing was spent on what was refused"


def test_a_run_of_another_guarantee_tells_no_metrics_of_examples(tmp_path: Path) -> None:
    conf = run("run.rounds=3")
    here = at_a_silo(conf, tmp_path)
    words = [word for word in NOISED if "metrics" not in word]
    app(asked(compose([*words, "privacy=local_dp"])), here)
    with pytest.raises(SiloError, match=r"MDW-382: .*.local_dp. of each silo.*of each example"):
        app(evaluation(conf), here)


def test_nothing_of_it_changes_a_run_that_asks_for_none(tmp_path: Path) -> None:
    conf = run("privacy.metrics_epsilon=0")
    answer = app(evaluation(conf), at_a_silo(conf, tmp_path))
    assert values(answer) == {} and list(tmp_path.iterdir()) == []
    assert noised_evaluation.MOST_EXAMPLES == MAX_EXAMPLES
