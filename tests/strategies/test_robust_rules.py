"""Each rule over a round's updates against its formula written in numpy, and Flower's where they
agree; what liars can do to it, and what arrival can't.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import permutations
from pathlib import Path

import flwr.serverapp.strategy as flower
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from conf.errors import MeadowError
from strategies.bulyan import Bulyan
from strategies.centered_clipping import CenteredClipping
from strategies.cohort_rule import CohortRule, dealt
from strategies.geometric_median import GeometricMedian
from strategies.krum import Krum
from strategies.krum_scores import chosen_in_turn, scores
from strategies.median import Median
from strategies.multikrum import MultiKrum
from strategies.state import restore, state_of
from strategies.streaming import Replies
from strategies.trimmed_mean import TrimmedMean
from tests.unused_grid import UnusedGrid

pytestmark = pytest.mark.usefixtures("task_identity")

Vector = NDArray[np.float64]
SHAPE = (5, 3)
SENT = np.linspace(-1.0, 1.0, 15)
MAKERS: Mapping[str, Callable[..., CohortRule]] = {
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "krum": Krum,
    "multikrum": MultiKrum,
    "bulyan": Bulyan,
    "geometric_median": GeometricMedian,
    "centered_clipping": CenteredClipping,
}


class Named(Replies):
    """Replies with their silos' names, in any order; one can be given back."""

    def __init__(self, replies: list[tuple[str, Message]]) -> None:
        self.left = list(replies)
        self.last = ""
        self.refused: dict[str, str] = {}

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        if not self.left:
            raise StopIteration
        self.last, reply = self.left.pop(0)
        return reply

    def silo(self) -> str:
        return self.last

    def refuse(self, why: MeadowError) -> None:
        self.refused[self.last] = why.code


class Nodes(UnusedGrid):
    """A grid that only says who is there."""

    def __init__(self, count: int) -> None:
        self.count = count

    def get_node_ids(self) -> list[int]:
        return list(range(1, self.count + 1))


def model(values: Vector, dtype: str = "float64") -> ArrayRecord:
    return ArrayRecord({"w": Array(values.reshape(SHAPE).astype(dtype))})


def replies_to(
    strategy: Strategy,
    updates: list[Vector],
    *,
    sent: Vector = SENT,
    dtype: str = "float64",
    examples: list[int] | None = None,
    round: int = 1,
) -> list[Message]:
    grid = Nodes(len(updates))
    asked = strategy.configure_train(round, model(sent, dtype), ConfigRecord(), grid)
    made = []
    for at, message in enumerate(asked):
        count = 1 if examples is None else examples[at]
        content = RecordDict(
            {
                "arrays": model(updates[at], dtype),
                "metrics": MetricRecord({"num-examples": count, "loss": float(at)}),
            }
        )
        made.append(Message(content, reply_to=message))
    return made


def result_of(strategy: Strategy, updates: list[Vector], **more: object) -> Vector:
    arrays, _ = strategy.aggregate_train(1, replies_to(strategy, updates, **more))  # type: ignore[arg-type]
    assert arrays is not None
    return np.asarray(arrays["w"].numpy(), np.float64).reshape(-1)


def drawn(count: int, seed: int = 0, spread: float = 1.0) -> list[Vector]:
    rng = np.random.default_rng(seed)
    return [SENT + spread * rng.normal(size=SENT.size) for _ in range(count)]


# ---- the formulas


@pytest.mark.parametrize("count", [3, 4, 7])
def test_the_median_is_numpy_s_and_flower_s(count: int) -> None:
    updates = drawn(count)
    found = result_of(Median(f=1), updates)
    np.testing.assert_allclose(found, np.median(updates, axis=0), rtol=1e-15)
    theirs = flower.FedMedian(min_train_nodes=1, min_available_nodes=1)
    arrays, _ = theirs.aggregate_train(1, replies_to(Median(f=1), updates))
    assert arrays is not None
    np.testing.assert_allclose(found, arrays["w"].numpy().reshape(-1), rtol=1e-15)


@pytest.mark.parametrize(("count", "f"), [(3, 1), (7, 2), (6, 0)])
def test_the_trimmed_mean_is_that_of_the_sorted_middle_and_flower_s(count: int, f: int) -> None:
    updates = drawn(count)
    found = result_of(TrimmedMean(f=f), updates)
    middle = np.sort(updates, axis=0)[f : count - f]
    np.testing.assert_allclose(found, middle.mean(axis=0), rtol=1e-13)
    theirs = flower.FedTrimmedAvg(beta=f / count + 1e-9)
    arrays, _ = theirs.aggregate_train(1, replies_to(TrimmedMean(f=f), updates))
    assert arrays is not None
    np.testing.assert_allclose(found, arrays["w"].numpy().reshape(-1), rtol=1e-13)


@pytest.mark.parametrize(("count", "f"), [(5, 1), (7, 2), (9, 1)])
def test_krum_takes_the_update_whose_neighbours_are_nearest_as_flower_does(
    count: int, f: int
) -> None:
    updates = drawn(count)
    score = []
    for one in updates:
        far = sorted(float(((one - other) ** 2).sum()) for other in updates)
        score.append(sum(far[1 : count - f - 1]))
    found = result_of(Krum(f=f), updates)
    np.testing.assert_array_equal(found, updates[int(np.argmin(score))])
    theirs = flower.Krum(num_malicious_nodes=f)
    arrays, _ = theirs.aggregate_train(1, replies_to(Krum(f=f), updates))
    assert arrays is not None
    np.testing.assert_array_equal(found, arrays["w"].numpy().reshape(-1))


@pytest.mark.parametrize("select", [1, 3, None, 99])
def test_multi_krum_is_the_mean_of_the_lowest_scores_as_flower_s(select: int | None) -> None:
    updates = drawn(9)
    squares = np.array([[((a - b) ** 2).sum() for b in updates] for a in updates])
    count = min(select or 8, 8)
    best = np.argsort(scores(squares, 1), kind="stable")[:count]
    found = result_of(MultiKrum(f=1, select=select), updates)
    np.testing.assert_allclose(found, np.mean([updates[i] for i in best], axis=0), rtol=1e-13)
    theirs = flower.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=count)
    arrays, _ = theirs.aggregate_train(1, replies_to(MultiKrum(f=1), updates))
    assert arrays is not None
    np.testing.assert_allclose(found, arrays["w"].numpy().reshape(-1), rtol=1e-12)


@pytest.mark.parametrize(("count", "f"), [(7, 1), (8, 1), (11, 2), (3, 0)])
def test_bulyan_is_the_mean_of_the_values_nearest_to_the_median_of_those_chosen_in_turn(
    count: int, f: int
) -> None:
    updates = drawn(count)
    left = list(range(count))
    chosen = []
    for _ in range(count - 2 * f):
        squares = np.array([[((updates[a] - updates[b]) ** 2).sum() for b in left] for a in left])
        best = left[int(np.argmin(scores(squares, f)))]
        chosen.append(best)
        left.remove(best)
    values = np.array([updates[i] for i in sorted(chosen)])
    middle = np.median(values, axis=0)
    nearest = np.argsort(np.abs(values - middle), axis=0)[: count - 4 * f]
    wanted = np.take_along_axis(values, nearest, axis=0).mean(axis=0)
    np.testing.assert_allclose(result_of(Bulyan(f=f), updates), wanted, rtol=1e-13)


def test_bulyan_is_flower_s_where_both_choose_the_same() -> None:
    # Two are so far away that choosing in turn and choosing at once leave out the same.
    updates = [*drawn(5), SENT + 50.0, SENT - 60.0]
    theirs = flower.Bulyan(num_malicious_nodes=1)
    arrays, _ = theirs.aggregate_train(1, replies_to(Bulyan(f=1), updates))
    assert arrays is not None
    found = result_of(Bulyan(f=1), updates)
    np.testing.assert_allclose(found, arrays["w"].numpy().reshape(-1), rtol=1e-12)


@pytest.mark.parametrize("examples", [None, [5, 1, 1, 2, 1, 3, 1]])
def test_the_geometric_median_has_the_least_sum_of_distances(examples: list[int] | None) -> None:
    updates = drawn(7)
    strategy = GeometricMedian(f=1, iterations=200)
    weights = np.ones(7) if examples is None else np.array(examples, float)
    if examples is not None:
        strategy.weighting = "examples"
    found = result_of(strategy, updates, examples=examples)

    def objective(z: Vector) -> float:
        return float(sum(w * np.linalg.norm(u - z) for w, u in zip(weights, updates, strict=True)))

    # At the minimum the unit vectors towards the updates cancel.
    pull = sum(
        w * (u - found) / np.linalg.norm(u - found) for w, u in zip(weights, updates, strict=True)
    )
    assert np.linalg.norm(pull) < 1e-4
    rng = np.random.default_rng(1)
    for _ in range(50):
        assert objective(found) <= objective(found + 0.01 * rng.normal(size=found.size))


def test_a_step_of_the_geometric_median_is_weiszfeld_s() -> None:
    updates = drawn(5)
    start = np.median(updates, axis=0)
    near = np.array([1 / max(1e-6, np.linalg.norm(u - start)) for u in updates])
    wanted = sum(b * u for b, u in zip(near, updates, strict=True)) / near.sum()
    np.testing.assert_allclose(
        result_of(GeometricMedian(iterations=1), updates), wanted, rtol=1e-13
    )


@pytest.mark.parametrize("tau", [0.5, 3.0, 100.0, None])
@pytest.mark.parametrize("iterations", [1, 3])
def test_centered_clipping_is_the_recursion_of_its_paper(
    tau: float | None, iterations: int
) -> None:
    strategy = CenteredClipping(f=1, tau=tau, iterations=iterations)
    x = SENT.copy()
    v = np.zeros_like(x)
    for round in (1, 2, 3):
        updates = [x + 1.5 + noise - SENT for noise in drawn(5, seed=round)]
        replies = replies_to(strategy, updates, sent=x, round=round)
        arrays, _ = strategy.aggregate_train(round, replies)
        assert arrays is not None
        for _ in range(iterations):
            far = [np.linalg.norm(u - x - v) for u in updates]
            radius = float(np.median(far)) if tau is None else tau
            v = v + sum(
                (u - x - v) * min(1.0, radius / d) for u, d in zip(updates, far, strict=True)
            ) / len(updates)
        x = x + v
        found = arrays["w"].numpy().reshape(-1)
        np.testing.assert_allclose(found, x, rtol=1e-12)
        x = found
        v = strategy.v["w"].reshape(-1)


def test_equal_updates_come_back_as_they_are_under_every_rule() -> None:
    values = drawn(1)[0].astype(np.float32).astype(np.float64)
    for name, make in MAKERS.items():
        if name == "centered_clipping":
            continue  # it goes at most tau from where it was
        for dtype in ("float32", "float64"):
            found = result_of(make(f=1), [values] * 7, dtype=dtype)
            np.testing.assert_allclose(found, values, rtol=1e-15, err_msg=name)


# ---- liars

LIES: Mapping[str, Callable[[Vector], Vector]] = {
    "far": lambda mean: mean + 1e6,
    "as far as it goes": lambda mean: np.full_like(mean, 5e12),
    "sign": lambda mean: SENT - 10 * (mean - SENT),
    "one weight": lambda mean: np.where(np.arange(mean.size) == 3, 1e9, mean),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("rule", MAKERS)
def test_liars_within_the_breakdown_point_do_not_lead_the_model_away(rule: str, lie: str) -> None:
    honest = drawn(9, spread=0.1)
    mean = np.mean(honest, axis=0)
    liars = [LIES[lie](mean)] * 2
    found = result_of(MAKERS[rule](f=2), [*liars, *honest])
    # Farther than the honest ones are from each other it is nowhere.
    spread = max(np.linalg.norm(a - b) for a in honest for b in honest)
    assert np.linalg.norm(found - mean) < spread


def test_more_liars_than_f_lead_it_away() -> None:
    """What the rules promise is what they keep, and not more: else the tests above prove nothing."""
    honest = drawn(4, spread=0.1)
    liars = [SENT + 1e6] * 5
    for rule in ("median", "krum", "geometric_median"):
        found = result_of(MAKERS[rule](f=1), [*liars, *honest])
        assert np.linalg.norm(found - SENT) > 1e5, rule


def test_a_liar_s_examples_weigh_only_where_it_was_asked_for() -> None:
    honest = drawn(6, spread=0.1)
    lie: list[Vector] = [SENT + 1e3]
    told = [10**8, 1, 1, 1, 1, 1, 1]
    for name, make in MAKERS.items():
        with_lie = result_of(make(f=1), [*lie, *honest], examples=told)
        np.testing.assert_array_equal(with_lie, result_of(make(f=1), [*lie, *honest]), name)
    weighing = GeometricMedian(f=1)
    weighing.weighting = "examples"
    assert np.linalg.norm(result_of(weighing, [*lie, *honest], examples=told) - SENT) > 1e2


# ---- shares


def shares_of(strategy: CohortRule, updates: list[Vector]) -> dict[str, float]:
    replies = replies_to(strategy, updates)
    named = Named([(f"silo-{at}", reply) for at, reply in enumerate(replies)])
    strategy.aggregate_train(1, named)
    return strategy.shares


@pytest.mark.parametrize("bucket", [1, 2])
@pytest.mark.parametrize("rule", MAKERS)
def test_shares_say_how_much_each_silo_counted_and_add_up(rule: str, bucket: int) -> None:
    shares = shares_of(MAKERS[rule](f=1, bucket=bucket), drawn(14))
    assert len(shares) == 14 and min(shares.values()) >= 0
    assert sum(shares.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("rule", sorted(set(MAKERS) - {"centered_clipping"}))
def test_a_liar_far_away_has_next_to_none(rule: str) -> None:
    shares = shares_of(MAKERS[rule](f=1), [SENT + 1e6, *drawn(6, spread=0.1)])
    assert shares["silo-0"] < 1e-4
    if rule == "krum":
        assert sorted(shares.values())[-2:] == [0.0, 1.0]


# ---- any order of arrival, any buckets


@pytest.mark.parametrize("bucket", [1, 2])
@pytest.mark.parametrize("rule", MAKERS)
def test_the_order_of_arrival_changes_no_bit(rule: str, bucket: int) -> None:
    updates = drawn(7 * bucket, seed=5)
    orders = [list(range(len(updates)))]
    orders += [orders[0][::-1], [*orders[0][3:], *orders[0][:3]]]
    found = set()
    for order in orders:
        strategy = MAKERS[rule](f=1, bucket=bucket)
        replies = replies_to(strategy, updates, dtype="float32")
        named = Named([(f"silo-{at:02d}", replies[at]) for at in order])
        arrays, metrics = strategy.aggregate_train(1, named)
        assert arrays is not None and metrics is not None
        shares = tuple(sorted(strategy.shares.items()))
        found.add((arrays["w"].numpy().tobytes(), metrics["loss"], shares))
    assert len(found) == 1


def test_the_names_decide_the_rows_and_not_the_nodes() -> None:
    """After a restart a silo may have another node: Krum's tie goes to the same silo."""
    updates = [SENT, SENT + 1.0, SENT + 2.0, SENT + 3.0, SENT + 4.0]
    found = set()
    for order in permutations(range(5)):
        strategy = Krum(f=1)
        replies = replies_to(strategy, [updates[at] for at in order])
        named = Named([(f"silo-{at}", reply) for at, reply in zip(order, replies, strict=True)])
        arrays, _ = strategy.aggregate_train(1, named)
        assert arrays is not None
        found.add(arrays["w"].numpy().tobytes())
    assert len(found) == 1


def test_buckets_are_dealt_anew_by_seed_and_hold_each_update_once() -> None:
    for count, bucket in ((7, 2), (9, 3), (5, 5), (4, 1)):
        made = dealt(count, bucket, 1)
        assert sorted(at for one in made for at in one) == list(range(count))
        assert {len(one) for one in made[:-1]} <= {bucket}
    assert dealt(20, 2, 1) == dealt(20, 2, 1) != dealt(20, 2, 2)


@pytest.mark.parametrize("rule", MAKERS)
def test_buckets_of_a_rule_are_the_rule_of_the_buckets(rule: str) -> None:
    updates = drawn(14)
    strategy = MAKERS[rule](f=1, bucket=2)
    found = result_of(strategy, updates)
    from conf.seeds import seed_for

    made = dealt(14, 2, seed_for(0, "server", 1, "buckets"))
    rows = [np.mean([updates[i] for i in bucket], axis=0) for bucket in made]
    np.testing.assert_allclose(found, result_of(MAKERS[rule](f=1), rows), rtol=1e-12)


def test_choosing_in_turn_takes_each_once() -> None:
    squares = np.array([[(a - b) ** 2 for b in range(9)] for a in range(9)], float)
    chosen = chosen_in_turn(squares, 1, 7)
    assert list(chosen) == sorted(set(chosen)) and len(chosen) == 7


# ---- state


def test_the_centre_is_state_and_a_resumed_run_goes_on_to_the_bit() -> None:
    def rounds(strategy: CenteredClipping, x: Vector, numbers: range) -> Vector:
        for round in numbers:
            updates = [x + 0.3 + noise for noise in drawn(5, seed=round)]
            replies = replies_to(strategy, updates, sent=x, dtype="float32", round=round)
            arrays, _ = strategy.aggregate_train(round, replies)
            assert arrays is not None
            x = arrays["w"].numpy().reshape(-1)
        return x

    whole = rounds(CenteredClipping(), SENT, range(1, 5))
    first = CenteredClipping()
    half = rounds(first, SENT, range(1, 3))
    second = CenteredClipping()
    restore(second, state_of(first))
    resumed = rounds(second, half, range(3, 5))
    assert resumed.tobytes() == whole.tobytes()
    forgotten = rounds(CenteredClipping(), half, range(3, 5))
    assert forgotten.tobytes() != whole.tobytes()


def test_where_updates_are_held_is_no_state(tmp_path: Path) -> None:
    strategy = Median(f=1)
    strategy.begin(tmp_path / "held", 3)
    result_of(strategy, drawn(3))
    held = str(state_of(strategy))
    assert "held" not in held and "shares" not in held and "silo" not in held
