"""A strategy from elsewhere: found by its path, its arguments checked, and hosted without surprises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import flwr.serverapp.strategy as flower
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    QFedAvg,
)

from conf.errors import ConfigError, WireError
from strategies.external import UNFIT, External, construct_at
from strategies.wire.digests import arrays_digest
from strategies.wire.half_types import numbers

FLOWER = "flwr.serverapp.strategy."

OWN = """
from flwr.serverapp.strategy import FedAvg

class Halfway(FedAvg):
    '''Goes half of the way to the mean.'''

    def __init__(self, step: float = 0.5, **kwargs):
        super().__init__(**kwargs)
        self.step = step
"""


def refused(target: str, **args: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        construct_at(target, args, "strategy")
    return caught.value


def test_flowers_strategy_gets_the_arguments_and_those_that_make_it_fit() -> None:
    adam = construct_at(FLOWER + "FedAdam", {"eta": 0.5, "min_train_nodes": 3}, "strategy")
    assert isinstance(adam, FedAdam) and adam.eta == 0.5
    assert (adam.min_train_nodes, adam.min_evaluate_nodes, adam.min_available_nodes) == (3, 1, 1)
    fair = construct_at(FLOWER + "QFedAvg", {"client_learning_rate": 1}, "strategy")
    assert isinstance(fair, QFedAvg) and fair.train_loss_key == "loss"


def test_a_strategy_in_one_file_outside_the_tree_is_found_by_the_files_path(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    mine = construct_at(
        f"{tmp_path / 'mine.py'}:Halfway", {"step": 0.25, "fraction_evaluate": 0.5}, "strategy"
    )
    assert isinstance(mine, FedAvg) and type(mine).__name__ == "Halfway"
    assert mine.step == 0.25 and mine.fraction_evaluate == 0.5  # type: ignore[attr-defined]


def test_a_strategy_in_a_module_of_the_current_folder_is_found_by_its_dotted_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_strategies_here.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p])
    assert type(construct_at("my_strategies_here.Halfway", {}, "strategy")).__name__ == "Halfway"


def test_a_wrapper_takes_its_inner_strategy_as_a_mapping() -> None:
    inner = {"target": FLOWER + "FedAdam", "args": {"eta": 0.3}}
    wrapper = construct_at(
        FLOWER + "DifferentialPrivacyServerSideFixedClipping",
        {
            "noise_multiplier": 0.1,
            "clipping_norm": 1.0,
            "num_sampled_clients": 3,
            "strategy": inner,
        },
        "strategy",
    )
    assert isinstance(wrapper, DifferentialPrivacyServerSideFixedClipping)
    assert isinstance(wrapper.strategy, FedAdam) and wrapper.strategy.min_train_nodes == 1
    error = refused(
        FLOWER + "DifferentialPrivacyServerSideFixedClipping", strategy={"name": "FedAvg"}
    )
    assert error.code == "MDW-174"  # the other arguments come first
    with pytest.raises(ConfigError, match=r"MDW-173.*strategy\.args\.strategy"):
        construct_at(
            FLOWER + "DifferentialPrivacyServerSideFixedClipping",
            {
                "noise_multiplier": 0.1,
                "clipping_norm": 1.0,
                "num_sampled_clients": 3,
                "strategy": {"name": "x"},
            },
            "strategy",
        )


@pytest.mark.parametrize(
    ("target", "args", "code", "says"),
    [
        (FLOWER + "FedAdm", {}, "MDW-170", "Did you mean 'FedAdam'?"),
        ("flwr.no_such.FedAdam", {}, "MDW-170", "there is no module flwr.no_such"),
        ("FedAdam", {}, "MDW-170", "Write FILE.py:Class"),
        ("nowhere/mine.py:Mine", {}, "MDW-170", "there is no file nowhere/mine.py"),
        ("collections.OrderedDict", {}, "MDW-172", "does not implement"),
        (FLOWER + "Strategy", {}, "MDW-172", "does not implement"),
        ("shutil.which", {}, "MDW-172", "Derive the class"),
        (FLOWER + "FedAdam", {"etta": 1}, "MDW-173", "Did you mean 'eta'?"),
        (FLOWER + "QFedAvg", {}, "MDW-174", "client_learning_rate"),
        (FLOWER + "FedAdam", {"eta": "high"}, "MDW-175", "takes float"),
        (FLOWER + "FedAdam", {"eta": None}, "MDW-175", "takes float"),
        (FLOWER + "FedAdam", {"min_train_nodes": 1.5}, "MDW-175", "takes int"),
        (
            FLOWER + "FedAvg",
            {"train_metrics_aggr_fn": "mean"},
            "MDW-175",
            "a configuration can't hold",
        ),
        (FLOWER + "FedTrimmedAvg", {"beta": True}, "MDW-175", "takes float"),
        (FLOWER + "FedXgbCyclic", {"fraction_train": 0.5}, "MDW-176", "can only be set to 1.0"),
    ],
)
def test_what_is_wrong_is_said_with_the_nearest_right_name(
    target: str, args: dict[str, Any], code: str, says: str
) -> None:
    error = refused(target, **args)
    assert error.code == code and says in str(error)


def test_a_file_that_fails_when_imported_is_named_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    error = refused(f"{tmp_path / 'broken.py'}:Mine")
    assert (
        error.code == "MDW-171"
        and "broken.py" in error.message
        and "ZeroDivisionError" in error.message
    )


def test_a_strategy_that_would_wait_for_ever_for_more_silos_is_refused(
    make_grid: Any, model: ArrayRecord
) -> None:
    greedy = External(construct_at(FLOWER + "FedAvg", {"min_available_nodes": 5}))
    with pytest.raises(ConfigError, match=r"MDW-158.*min_available_nodes.*3 take part"):
        greedy.configure_train(1, model, ConfigRecord(), make_grid(3))
    inside = {"target": FLOWER + "FedAvg", "args": {"min_train_nodes": 9}}
    args = {
        "noise_multiplier": 0.1,
        "clipping_norm": 1.0,
        "num_sampled_clients": 3,
        "strategy": inside,
    }
    wrapped = External(construct_at(FLOWER + "DifferentialPrivacyServerSideFixedClipping", args))
    with pytest.raises(ConfigError, match="MDW-158"):
        wrapped.configure_train(1, model, ConfigRecord(), make_grid(3))


def test_silos_get_the_whole_model_and_the_strategy_only_the_floats(
    make_grid: Any, model: ArrayRecord
) -> None:
    grid, adam = make_grid(2), External(construct_at(FLOWER + "FedAdam", {}))
    replies = grid.send_and_receive(adam.configure_train(1, model, ConfigRecord(), grid))
    assert all(list(m.content["arrays"]) == list(model) for m in grid.asked)
    assert set(adam.inner.current_arrays) == {"weight", "bias", "bn.running_var"}  # type: ignore[attr-defined]
    counted = max(int(r.content["arrays"]["bn.num_batches_tracked"].numpy()) for r in replies)
    arrays, _ = adam.aggregate_train(1, replies)
    assert arrays is not None and arrays["bn.num_batches_tracked"].numpy() == counted
    assert arrays["weight"].dtype == "float32"  # FedAdam itself returns float64


@pytest.mark.parametrize("name", ["FedAvg", "FedAdam", "FedMedian", "Krum"])
def test_a_strategy_sees_halves_as_numbers_and_silos_get_them_as_they_are(
    name: str, make_grid: Any, half_model: ArrayRecord
) -> None:
    grid, hosted = make_grid(5), External(construct_at(FLOWER + name, {}))
    replies = grid.send_and_receive(hosted.configure_train(1, half_model, ConfigRecord(), grid))
    sent = [message.content["arrays"] for message in grid.asked]
    # One record for all of them, so that it travels once.
    assert len({id(record) for record in sent}) == 1
    assert arrays_digest(sent[0]) == arrays_digest(half_model)
    arrays, _ = hosted.aggregate_train(1, replies)
    assert arrays is not None and list(arrays) == list(half_model)
    assert [a.dtype for a in arrays.values()] == [a.dtype for a in half_model.values()]
    moved = numbers(arrays["weight"]) - numbers(half_model["weight"])
    assert 0 < float(np.abs(moved).max()) < 0.5


def test_what_is_frozen_stays_as_it_is_whatever_a_strategy_makes_of_it(
    make_grid: Any, model: ArrayRecord
) -> None:
    grid, adam = make_grid(3), External(construct_at(FLOWER + "FedAdam", {}))
    adam.frozen = frozenset({"bias", "not of this model"})
    messages = adam.configure_train(1, model, ConfigRecord(), grid)
    arrays, _ = adam.aggregate_train(1, grid.send_and_receive(messages))
    assert arrays is not None and list(arrays) == list(model)
    assert arrays["bias"].data == model["bias"].data
    assert arrays["weight"].data != model["weight"].data


def test_the_order_of_a_replys_arrays_does_not_matter(make_grid: Any, model: ArrayRecord) -> None:
    """FedAvgM and the differential-privacy wrappers go by position; a silo may answer in another order."""

    def one_round(reverse: bool) -> dict[str, bytes]:
        grid, momentum = (
            make_grid(3),
            External(construct_at(FLOWER + "FedAvgM", {"server_learning_rate": 0.5})),
        )
        messages = momentum.configure_train(1, model, ConfigRecord(), grid)
        replies = [grid.reply(m) for m in sorted(messages, key=lambda m: m.metadata.dst_node_id)]
        for reply in replies if reverse else []:
            reply.content["arrays"] = ArrayRecord(dict(reversed(reply.content["arrays"].items())))
        arrays, _ = momentum.aggregate_train(1, replies)
        assert arrays is not None
        return {name: array.numpy().tobytes() for name, array in arrays.items()}

    assert one_round(reverse=True) == one_round(reverse=False)


def test_a_model_of_counters_only_passes_through_as_it_is(make_grid: Any) -> None:
    trees = ArrayRecord({"0": Array(np.arange(4))})
    grid, avg = make_grid(2), External(construct_at(FLOWER + "FedXgbCyclic", {}))
    replies = grid.send_and_receive(avg.configure_train(1, trees, ConfigRecord(), grid))
    arrays, _ = avg.aggregate_train(1, replies)
    assert (
        arrays is not None
        and (arrays["0"].numpy() == replies[0].content["arrays"]["0"].numpy()).all()
    )


def test_errors_are_passed_over_and_no_reply_leaves_no_model(
    make_grid: Any, model: ArrayRecord
) -> None:
    grid, avg = make_grid(2), External(construct_at(FLOWER + "FedAvg", {}))
    first, second = avg.configure_train(1, model, ConfigRecord(), grid)
    failed = Message(Error(0, "out of memory"), reply_to=first)
    assert avg.aggregate_train(1, [failed]) == (None, None)
    assert avg.aggregate_evaluate(1, [failed]) is None
    arrays, _ = avg.aggregate_train(1, [failed, grid.reply(second)])
    assert arrays is not None


def test_a_reply_with_another_model_is_refused_by_the_array_that_differs(
    make_grid: Any, model: ArrayRecord
) -> None:
    grid, avg = make_grid(2), External(construct_at(FLOWER + "FedAvg", {}))
    replies = grid.send_and_receive(avg.configure_train(1, model, ConfigRecord(), grid))
    del replies[1].content["arrays"]["bias"]
    with pytest.raises(WireError, match=r"MDW-660.*'bias'"):
        avg.aggregate_train(1, replies)


def _block_with(line: str, page: str) -> str:
    """Return the Python block of a page that holds a line."""
    blocks = [part.split("```")[0] for part in page.split("```python\n")[1:]]
    (found,) = (block for block in blocks if line in block)
    return found


def test_the_strategy_shown_in_the_docs_runs_from_its_file(
    tmp_path: Path, make_grid: Any, model: ArrayRecord
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text()
    (tmp_path / "my_strategy.py").write_text(_block_with("class Damped", page))

    def one_round(step: float) -> np.ndarray:
        grid, damped = (
            make_grid(3),
            External(construct_at(f"{tmp_path / 'my_strategy.py'}:Damped", {"step": step})),
        )
        messages = damped.configure_train(1, model, ConfigRecord(), grid)
        replies = [grid.reply(m) for m in sorted(messages, key=lambda m: m.metadata.dst_node_id)]
        arrays, _ = damped.aggregate_train(1, replies)
        assert arrays is not None
        return arrays["weight"].numpy()

    start = model["weight"].numpy()
    np.testing.assert_allclose(one_round(0.25) - start, 0.25 * (one_round(1.0) - start), atol=1e-6)


def test_the_tables_of_the_docs_name_each_of_flowers_strategies() -> None:
    page = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text()
    works, fails = page.split("| works | note |")[1].split("| does not work | why |")
    fails = fails.split("\n\n")[0]
    named = {word for word in re.findall(r"\w+", works) if word in flower.__all__} - {"Strategy"}
    unfit = {line.split("|")[1].strip() for line in fails.splitlines() if line.startswith("| ")}
    assert unfit == set(UNFIT) and named | unfit == set(flower.__all__) - {"Strategy", "Result"}
