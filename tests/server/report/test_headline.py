"""A run in one sentence, and an honest word on what federating brought, by the task's own headline."""

from __future__ import annotations

from server.report.headline import headline, verdict
from tests.server.sample_results import bare, loss_alone, regression, sample


def test_the_headline_compares_the_federation_with_what_could_be_had_without() -> None:
    made = sample()
    assert headline(made, made.records[-1].aggregate) == (
        "The federated model has accuracy 0.961 on test examples; the best silo alone 0.713;"
        " a model of all data pooled 0.969"
    )


def test_the_verdict_is_honest() -> None:
    made = sample()
    assert made.baseline is not None
    assert made.baseline.centralised is not None
    assert "federating brought 96%" in verdict(made)
    made.baseline.federated.union["accuracy"] = 0.7
    assert "brought nothing" in verdict(made)
    made.baseline.federated.union["accuracy"] = 0.99
    assert "all that pooling" in verdict(made)
    made.baseline.centralised.union["accuracy"] = 0.6
    assert "better than all data pooled" in verdict(made)
    assert verdict(sample(baseline=False)) == ""


def test_a_headline_that_is_better_when_less_is_judged_so() -> None:
    made = regression()
    assert headline(made, {}) == (
        "The federated model has rmse 1.560 on test examples (lower is better);"
        " the best silo alone 11.48; a model of all data pooled 1.240"
    )
    assert "federating brought 96%" in verdict(made)
    assert made.baseline is not None
    made.baseline.federated.union["rmse"] = 12.0
    assert "brought nothing" in verdict(made)


def test_a_task_with_nothing_but_a_loss_is_judged_by_it() -> None:
    made = loss_alone()
    assert headline(made, {}).startswith("The federated model has loss 0.039 on test examples")
    assert "federating brought 96%" in verdict(made)
    made.baseline = None
    assert headline(made, {}).startswith("The federated model has loss 0.0")


def test_the_task_s_own_test_set_stands_in_where_no_silo_held_anything_out() -> None:
    made = sample(baseline=False)
    made.final = {"central_accuracy": 0.875, "train_loss": 0.1}
    assert headline(made, {}) == "The federated model has accuracy 0.875 on the task's test set"


def test_a_run_that_ended_early_says_so_and_what_its_last_round_gave() -> None:
    made = sample(3, 4, baseline=False)
    made.status = "interrupted"
    made.final = {}
    assert headline(made, {"accuracy": 0.75}) == (
        "The run was stopped after 4 rounds; the federated model has accuracy 0.750 on"
        " validation examples"
    )
    assert headline(bare("interrupted"), {}) == "The run was stopped after 0 rounds"
    assert headline(bare("failed"), {}) == "The run failed after 0 rounds"
    assert headline(bare("running"), {}) == "2 silos trained 0 rounds together"
