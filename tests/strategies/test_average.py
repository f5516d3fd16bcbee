"""The weighted mean: right against exact arithmetic, and the same bits in any order of arrival."""

from __future__ import annotations

import math
import tracemalloc
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as np_arrays

from conf.errors import WireError
from strategies import cores, fixed_point
from strategies.average import WeightedMean, are_held, largest_reach
from strategies.chunks import CHUNK
from strategies.fixed_point import LIMIT
from strategies.metric_means import MetricMeans
from strategies.wire.half_types import rounded

Updates = list[tuple[dict[str, np.ndarray], int]]
SHAPE = (3, 2)
BOTH = pytest.mark.parametrize("held", [True, False], ids=["held", "as they arrive"])


def mean_of(updates: Updates, held: bool = False) -> dict[str, np.ndarray]:
    """Return the mean of updates of silos that are named in their order."""
    mean = WeightedMean(held=held)
    for number, (arrays, weight) in enumerate(updates):
        mean.add(arrays, weight, f"{number:06}")
    return mean.result()


def bits(arrays: dict[str, np.ndarray]) -> dict[str, tuple[str, bytes]]:
    return {name: (str(a.dtype), a.tobytes()) for name, a in arrays.items()}


@st.composite
def updates(draw: st.DrawFn, largest: float = 1e4) -> Updates:
    weights = draw(st.lists(st.integers(1, 100_000), min_size=1, max_size=6))
    floats = {
        dtype: np_arrays(dtype, SHAPE, elements=st.floats(-largest, largest, width=width))
        for dtype, width in ((np.float16, 16), (np.float32, 32), (np.float64, 64))
    }
    return [
        (
            {
                "half": draw(floats[np.float16]),
                "single": draw(floats[np.float32]),
                "double": draw(floats[np.float64]),
                "tracked": np.asarray(draw(st.integers(0, 2**40))),
            },
            weight,
        )
        for weight in weights
    ]


@BOTH
@given(given_updates=updates())
@settings(max_examples=60, deadline=None)
def test_the_mean_is_the_exact_mean_rounded_to_its_dtype(
    held: bool, given_updates: Updates
) -> None:
    result = mean_of(given_updates, held)
    # What is made of halves is rounded when it becomes a model.
    result["half"] = rounded(result["half"], "float16")
    total = sum(weight for _, weight in given_updates)
    for name, slack in (("half", 0.501), ("single", 0.501), ("double", 4.0)):
        for at in np.ndindex(SHAPE):
            exact = (
                sum((w * Fraction(float(a[name][at])) for a, w in given_updates), Fraction(0))
                / total
            )
            largest = max(abs(float(a[name][at])) for a, _ in given_updates)
            scale = result[name].dtype.type(largest if name == "double" else abs(float(exact)))
            error = abs(Fraction(float(result[name][at])) - exact)
            # What float64 rounds at each of the additions, where large values cancel.
            added = Fraction(len(given_updates) * float(np.spacing(largest)) if held else 0)
            assert error <= Fraction(slack) * Fraction(float(np.spacing(scale))) + added + Fraction(
                1, 2**62
            )


@BOTH
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_mean_has_the_same_bits_in_any_order_of_arrival(
    held: bool, data: st.DataObject
) -> None:
    drawn = data.draw(updates())
    arrived = data.draw(st.permutations(list(enumerate(drawn))))
    mean = WeightedMean(held=held)
    for number, (arrays, weight) in arrived:
        mean.add(arrays, weight, f"{number:06}")
    assert bits(mean.result()) == bits(mean_of(drawn, held))


def test_a_float64_sum_would_depend_on_the_order_and_this_one_does_not() -> None:
    rng = np.random.default_rng(3)
    drawn: Updates = [({"w": rng.normal(size=1000)}, int(n)) for n in rng.integers(1, 1000, 7)]
    backwards = drawn[::-1]
    naive = [sum(n * arrays["w"] for arrays, n in order) for order in (drawn, backwards)]
    assert np.any(naive[0] != naive[1])
    assert bits(mean_of(drawn)) == bits(mean_of(backwards))


@BOTH
def test_large_models_are_folded_in_pieces_and_match_float64(held: bool) -> None:
    rng = np.random.default_rng(1)
    size = 2 * CHUNK + 17
    drawn: Updates = [
        ({"w": rng.normal(size=(size,)).astype(np.float32)}, n) for n in (5, 1000, 77)
    ]
    oracle = sum(n * a["w"].astype(np.float64) for a, n in drawn) / 1082
    np.testing.assert_array_equal(mean_of(drawn, held)["w"], oracle.astype(np.float32))


@BOTH
def test_arrays_that_are_not_contiguous_are_averaged_all_the_same(held: bool) -> None:
    grid = np.arange(12, dtype=np.float32).reshape(3, 4)
    drawn: Updates = [({"w": np.asfortranarray(grid)}, 1), ({"w": 3 * grid}, 1)]
    np.testing.assert_array_equal(mean_of(drawn, held)["w"], 2 * grid)


@BOTH
def test_one_update_alone_comes_back_bit_for_bit(held: bool) -> None:
    odd = np.array([-0.0, 1e-45, 1.17549435e-38, 3.4e8, -1e-20], np.float32)
    assert mean_of([({"w": odd}, 123)], held)["w"].tobytes() == odd.tobytes()


@BOTH
@given(
    same=np_arrays(np.float32, SHAPE, elements=st.floats(2**-40, 1e4, width=32)),
    weights=st.lists(st.integers(1, 9999), min_size=2),
)
@settings(deadline=None)
def test_silos_that_agree_leave_the_model_as_it_is(
    held: bool, same: np.ndarray, weights: list[int]
) -> None:
    assert mean_of([({"w": same}, n) for n in weights], held)["w"].tobytes() == same.tobytes()


@BOTH
def test_of_counters_the_largest_is_kept_in_its_dtype(held: bool) -> None:
    drawn: Updates = [
        ({"tracked": np.asarray(n, np.int64), "seen": np.array([n > 5, False])}, n)
        for n in (3, 2**53 + 1, 4)
    ]
    result = mean_of(drawn, held)
    assert result["tracked"] == 2**53 + 1  # float64 could not say that
    assert result["tracked"].dtype == np.int64 and result["tracked"].shape == ()
    assert result["seen"].tolist() == [True, False]


def test_memory_does_not_grow_with_the_number_of_updates() -> None:
    mean = WeightedMean()
    for k in range(50):
        mean.add({"w": np.full(100, k, np.float32)}, 1)
        held = sum(update.arrays["w"].nbytes for update in mean._held)
        sums = sum(
            one.high.nbytes + one.low.nbytes
            for one in mean._sums.values()
            if isinstance(one, fixed_point.Sum)
        )
        assert held + sums == (1600 if k else 400)


@pytest.mark.parametrize(
    ("updates", "most", "held"),
    [
        (10, 10 * 480, True),
        (10, 10 * 480 - 1, False),
        # Sums of four updates of float32 are as large as the updates.
        (4, 0, True),
        (5, 0, False),
    ],
)
def test_the_cohort_and_the_model_say_whether_updates_are_held(
    updates: int, most: int, held: bool
) -> None:
    assert are_held([("float32", (10, 10)), ("float32", (20,))], updates, most) is held


def test_several_threads_add_up_the_same_bits_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.random.default_rng(3)
    sizes = (1, 3, CHUNK - 1, CHUNK, 3 * CHUNK + 1, 17)
    some = [
        ({f"w{n}": drawn.normal(0, 10.0 ** (k % 8), n).astype(np.float32) for n in sizes}, 3 + k)
        for k in range(20)
    ]
    monkeypatch.setattr(cores, "_cores", lambda: 1)
    alone = bits(mean_of(some, held=True))
    monkeypatch.setattr(cores, "_cores", lambda: 3)
    monkeypatch.setattr(cores, "WORTH_THREADS", 0)
    for _ in range(3):
        assert bits(mean_of(some, held=True)) == alone


def test_updates_that_are_held_are_let_go_while_they_are_added_up() -> None:
    mean, size = WeightedMean(held=True), 1 << 16
    tracemalloc.start()
    for n in (1, 2):
        update = {f"w{i}": np.full(size, n, np.float32) for i in range(40)}
        mean.add(update, n, str(n))
        del update
    result = mean.result()
    peak = tracemalloc.get_traced_memory()[1] // (4 * size)
    tracemalloc.stop()
    # Arrays: both updates and a few of the mean, not a third model.
    assert len(result) == 40 and peak < 2 * 40 + 10


@BOTH
def test_an_array_without_elements_is_averaged_to_one(held: bool) -> None:
    updates: Updates = [({"none": np.zeros((0, 3), np.float32)}, weight) for weight in (1, 2)]
    assert mean_of(updates, held)["none"].shape == (0, 3)


@BOTH
@pytest.mark.parametrize("silos", [1, 2, 3, 7, 1000])
def test_updates_that_each_keep_to_their_share_always_have_a_mean(silos: int, held: bool) -> None:
    mean = WeightedMean(held=held)
    update = {"w": np.array([largest_reach(silos), -1.0])}
    for _ in range(silos):
        mean.add(update, 1)
    assert mean.result()["w"][0] == pytest.approx(largest_reach(silos))
    more = WeightedMean(held=held)
    with pytest.raises(WireError, match="MDW-662"):
        for _ in range(silos):
            more.add({"w": np.array([largest_reach(silos) * (1 + 2**-20)])}, 1)


def refusal(updates: Updates, held: bool = False) -> WireError:
    with pytest.raises(WireError) as caught:
        mean_of(updates, held)
    return caught.value


@BOTH
def test_a_sum_that_would_leave_the_counters_is_refused_by_name(held: bool) -> None:
    w = np.array([LIMIT / 2e6], np.float64)
    mean_of([({"w": w}, 1_000_000), ({"w": w}, 999_999)], held)
    error = refusal([({"w": w}, 1_000_000), ({"w": w}, 1_000_001)], held)
    assert error.code == "MDW-662" and "'w'" in error.message


@BOTH
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused_and_nothing_is_folded(
    value: float, held: bool
) -> None:
    mean = WeightedMean(held=held)
    good = {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)}
    mean.add(good, 1)
    mean.add(good, 1)
    with pytest.raises(WireError) as caught:
        mean.add({"a": 5 * good["a"], "b": np.array([1, value], np.float32)}, 1)
    assert caught.value.code == "MDW-661" and "'b'" in caught.value.message
    assert mean.result()["a"].tolist() == [1.0, 1.0] and mean.weight == 2


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({"a": np.ones(2, np.float32)}, "'b'"),
        (
            {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32), "c": np.ones(2, np.float32)},
            "'c'",
        ),
        ({"a": np.ones(2, np.float32), "b": np.ones((2, 1), np.float32)}, "'b'"),
        ({"a": np.ones(2, np.float64), "b": np.ones(2, np.float32)}, "'a'"),
    ],
)
def test_another_layout_is_refused_by_the_array_that_differs(
    other: dict[str, Any], name: str
) -> None:
    error = refusal([({"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)}, 1), (other, 1)])
    assert error.code == "MDW-660" and name in error.message


def test_a_dtype_without_a_mean_a_weight_of_nothing_and_no_update_are_refused() -> None:
    assert refusal([({"a": np.ones(2, complex)}, 1)]).code == "MDW-660"
    assert refusal([({"a": np.ones(2)}, 0)]).code == "MDW-663"
    assert refusal([]).code == "MDW-664"


@given(
    st.lists(st.tuples(st.floats(-1e300, 1e300), st.integers(1, 2**29)), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_metrics_are_the_exact_mean_in_any_order(
    values: list[tuple[float, int]], shuffle: Any
) -> None:
    def means(order: list[tuple[float, int]]) -> float:
        metrics = MetricMeans()
        for value, weight in order:
            metrics.add({"loss": value}, weight)
        return metrics.result()["loss"]

    exact = sum(n * Fraction(v) for v, n in values) / sum(n for _, n in values)
    mixed = values.copy()
    shuffle.shuffle(mixed)
    assert means(values) == means(mixed) == float(exact)


def test_metrics_that_not_all_have_are_left_out() -> None:
    metrics = MetricMeans()
    metrics.add({"loss": 1.0, "rare": 2.0, "by_class": [1.0, 2.0]}, 1)
    metrics.add({"loss": 2.0, "by_class": [1.0, 2.0]}, 3)
    assert metrics.result() == {"loss": 1.75}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_loss_that_is_not_finite_does_not_take_the_loss_from_all(value: float) -> None:
    metrics = MetricMeans()
    metrics.add({"loss": value}, 5)
    assert math.isnan(metrics.result()["loss"])
    metrics.add({"loss": 1.0}, 1)
    metrics.add({"loss": 2.0}, 3)
    assert metrics.result() == {"loss": 1.75}
