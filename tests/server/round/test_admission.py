"""A reply that could harm the model is rejected with a code and the silo's name.

Every other one is admitted.
"""

from __future__ import annotations

import ast
import math
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from client.sums import Sums, metrics_of, specs_of
from client.tasks import task_named
from server.round.admission import Admission, software_of
from server.round.judgement import Admitted, Rejected, Verdict
from server.round.measure import CHUNK
from server.round.reply_numbers import MAX_EXAMPLES
from strategies.average import largest_reach
from strategies.wire import protocol
from strategies.wire.objects import Pieces
from strategies.wire.software import LONGEST, MOST, Software
from tests.server.round.scripted_grid import sums_of

ROUND = Path(__file__).parents[3] / "server" / "round"
OF_BLAS = {"dot", "vdot", "inner", "matmul", "tensordot", "linalg"}
DIGITS = task_named("digits")
SPECS = specs_of(DIGITS)


def model() -> dict[str, np.ndarray]:
    return {
        "conv.weight": np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4),
        "norm.running_mean": np.zeros(3, np.float64),
        "norm.num_batches_tracked": np.array(7, np.int64),
    }


def record(arrays: dict[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(a) for name, a in arrays.items()})


def unpacked(pieces: Pieces) -> ArrayRecord:
    """A record as the wire unpacks it.

    The constructor of Flower's record would make an Array of it.
    """
    made = ArrayRecord()
    made["w"] = pieces
    return made


def reply(arrays: dict[str, np.ndarray] | ArrayRecord, **metrics: Any) -> RecordDict:
    named = {protocol.NUM_EXAMPLES: 10} | {
        key.replace("_", "-"): value for key, value in metrics.items()
    }
    arrays = arrays if isinstance(arrays, ArrayRecord) else record(arrays)
    return RecordDict({protocol.ARRAYS: arrays, protocol.METRICS: MetricRecord(named)})


def opened() -> Admission:
    admission = Admission(SPECS)
    admission.open(3, record(model()), ["north", "south"])
    return admission


def judge(
    content: RecordDict,
    *,
    phase: str = "train",
    round: int = 3,
    silo: str = "north",
) -> Verdict:
    return opened().check(content, silo=silo, round=round, phase=phase)


def rejected(verdict: Verdict, code: str | tuple[str, ...], *words: str) -> None:
    assert isinstance(verdict, Rejected), verdict
    assert verdict.code in code, verdict
    assert verdict.reason.startswith(("north, round", "south, round", "west, round"))
    assert all(word in verdict.reason for word in words), verdict.reason


@pytest.mark.parametrize(
    ("size", "says"),
    [
        (None, "no size"),
        (0, "between 1 and"),
        (2**40 + 1, "between 1 and"),
        (1.5, "whole"),
    ],
)
def test_a_size_that_weighs_is_a_count_within_its_bound(size: Any, says: str) -> None:
    admission = Admission(SPECS, weighting="size")
    admission.open(3, record(model()), ["north"])
    more = {} if size is None else {"size": size}
    rejected(
        admission.check(reply(model(), **more), silo="north", round=3, phase="train"),
        "MDW-616",
        says,
    )


@pytest.mark.parametrize(
    ("weighting", "admitted"), [("examples", True), ("equal", True), ("size", False)]
)
def test_an_update_reaches_as_far_as_it_weighs(weighting: str, admitted: bool) -> None:
    admission = Admission(SPECS, weighting=weighting)
    admission.open(3, record(model()), ["north"])
    large = model()
    large["conv.weight"] = large["conv.weight"] * 1000
    content = reply(large, size=2**38)
    verdict = admission.check(content, silo="north", round=3, phase="train")
    if admitted:
        assert isinstance(verdict, Admitted)
        assert verdict.examples == 10
    else:
        rejected(verdict, "MDW-621", "weight times values")


def saying(**software: Any) -> RecordDict:
    """A good update with what its silo says that it runs."""
    content = reply(model())
    content[protocol.SOFTWARE] = ConfigRecord(software)
    return content


def test_what_a_silo_says_that_it_runs_is_admitted_and_read() -> None:
    content = saying(python="3.12.1", torch="2.9.0+cu128", a_later_fact="x" * LONGEST)
    assert isinstance(judge(content), Admitted)
    assert software_of(content) == Software(python="3.12.1", torch="2.9.0+cu128")
    assert software_of(reply(model())) is None


@pytest.mark.parametrize(
    "said",
    [
        {"python": "x" * (LONGEST + 1)},
        {"python": "x" * 2**20},
        {"python": "3.12\nmeadow: forged"},
        {"python": "\x1b[2J"},
        {"python": "٣"},
        {"python": 3},
        {"python": b"3"},
        {"another": ["3"]},
        {f"name{i}": "" for i in range(MOST + 1)},
    ],
    ids=lambda said: f"{len(said)}-{str(said)[:30]!r}",
)
def test_what_is_no_short_line_costs_the_update_and_is_not_repeated(said: dict[str, Any]) -> None:
    verdict = judge(saying(**said))
    rejected(verdict, "MDW-342", "can't be read")
    assert isinstance(verdict, Rejected) and len(verdict.reason) < 200


def with_data(
    data: bytes, dtype: str = "float32", shape: tuple[int, ...] = (2, 3, 4)
) -> RecordDict:
    arrays = record(model())
    arrays["conv.weight"] = Array(dtype=dtype, shape=shape, stype="numpy.ndarray", data=data)
    return reply(arrays)


def npy(descr: str, shape: str, body: bytes, order: str = "False") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


def test_an_update_of_the_model_s_layout_is_admitted_with_its_norm() -> None:
    arrays = model()
    arrays["conv.weight"] = arrays["conv.weight"] + np.float32(0.5)
    arrays["norm.num_batches_tracked"] = np.array(99, np.int64)  # a counter has no part in the norm
    verdict = judge(reply(arrays))
    assert isinstance(verdict, Admitted)
    assert verdict.examples == 10
    assert verdict.norm == pytest.approx(math.sqrt(24 * 0.25), rel=1e-6)


def test_other_names_are_rejected() -> None:
    arrays = model()
    arrays["conv.w\nforged log line"] = arrays.pop("conv.weight")
    rejected(judge(reply(arrays)), "MDW-611", "without 'conv.weight'", r"with 'conv.w\n")


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 3, 4)), np.zeros((4, 3, 2), np.float32), np.zeros((2, 3, 4), ">f4")]
)
def test_another_shape_or_dtype_is_rejected(wrong: np.ndarray) -> None:
    rejected(judge(reply(model() | {"conv.weight": wrong})), "MDW-612", "conv.weight")


def test_a_declaration_that_its_header_belies_is_rejected() -> None:
    rejected(
        judge(with_data(npy("'<f8'", "(2, 3, 4)", bytes(192)))),
        "MDW-613",
        "float64 where 'float32'",
    )
    rejected(judge(with_data(npy("'<f4'", "(4, 3, 2)", bytes(96)))), "MDW-613", "conv.weight")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"not an array at all, but long enough to look like one",
        npy("'<f4'", "(2, 3, 4)", bytes(95)),
        npy("'<f4'", "(2, 3, 4)", bytes(97)),
        npy("'|O'", "(2, 3, 4)", bytes(192)),
        npy("'<Z9'", "(2, 3, 4)", bytes(96)),
        npy("[('a', '<f4')]", "(2, 3, 4)", bytes(96)),
        npy("'<f4'", "(2, 3, -4)", bytes(96)),
        npy("'<f4'", "(2, 3, 4" + ", 1" * 40 + ")", bytes(96)),
        npy("'<f4'", "(" * 2000, bytes(96)),
        b"\x93NUMPY\x03\x00" + npy("'<f4'", "(2, 3, 4)", bytes(96))[8:],
        b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + bytes(100),
    ],
)
def test_a_header_or_size_that_lies_is_rejected(data: bytes) -> None:
    rejected(judge(with_data(data)), "MDW-613", "conv.weight")


def test_a_small_buffer_that_asks_for_gigabytes_allocates_nothing() -> None:
    shape = (1_900_000_000,)
    global_model = unpacked(Pieces("float32", shape, [memoryview(b"")]))
    data = npy("'<f4'", "(1900000000, )", bytes(40))
    update = ArrayRecord(
        {"w": Array(dtype="float32", shape=shape, stype="numpy.ndarray", data=data)}
    )
    admission = Admission(SPECS)
    admission.open(3, global_model, ["north"])
    tracemalloc.start()
    try:
        rejected(
            admission.check(reply(update), silo="north", round=3, phase="train"),
            "MDW-613",
            "40 bytes",
        )
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


def test_arrays_as_the_wire_unpacks_them_are_checked_without_a_copy() -> None:
    values = np.arange(1_000_000, dtype=np.float32)
    pieces = unpacked(Pieces("float32", (1000, 1000), [memoryview(values.tobytes())]))
    admission = Admission(SPECS)
    admission.open(3, record({"w": values.reshape(1000, 1000)}), ["north"])
    content = reply(pieces)
    tracemalloc.start()
    try:
        assert admission.check(content, silo="north", round=3, phase="train") == Admitted(10, 0.0)
        assert tracemalloc.get_traced_memory()[1] < values.nbytes / 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("module", ["measure", "sketch", "judgement", "reply_numbers"])
def test_what_is_measured_of_an_update_asks_for_no_threads_of_blas(module: str) -> None:
    """Workers that train have every core: the same 16 MB took 12 or 517 ms by who else was busy."""
    tree = ast.parse((ROUND / f"{module}.py").read_text())
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in OF_BLAS:
            found.append(node.attr)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            found.append("@")
        if isinstance(node, ast.keyword) and node.arg == "optimize":
            # Of `np.einsum`, which otherwise has loops of its own.
            found.append("optimize")
    assert found == []


def test_bfloat16_is_measured_by_its_values_and_not_by_its_bits() -> None:
    ones, twos, nan = (np.full(3, bits, np.uint16).tobytes() for bits in (0x3F80, 0x4000, 0x7FC0))
    old, new, bad = (unpacked(Pieces("bfloat16", (3,), [memoryview(b)])) for b in (ones, twos, nan))
    admission = Admission(SPECS)
    admission.open(3, old, ["north", "south"])
    verdict = admission.check(reply(new), silo="north", round=3, phase="train")
    assert isinstance(verdict, Admitted) and verdict.norm == pytest.approx(math.sqrt(3))
    rejected(admission.check(reply(bad), silo="south", round=3, phase="train"), "MDW-614")


def test_an_equivalent_header_and_fortran_order_are_admitted_with_the_same_norm() -> None:
    arrays = model()
    weight = arrays["conv.weight"] + np.float32(0.25)
    verdicts = [
        judge(reply(arrays | {"conv.weight": weight})),
        judge(reply(arrays | {"conv.weight": np.asfortranarray(weight)})),
        judge(with_data(npy("'<f4'", "(2, 3, 4)", weight.tobytes()))),
    ]
    norms = [v.norm for v in verdicts if isinstance(v, Admitted)]
    assert norms == pytest.approx([math.sqrt(24 / 16)] * 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["conv.weight", "norm.running_mean"])
def test_values_that_are_not_finite_are_rejected(bad: float, name: str) -> None:
    arrays = model()
    arrays[name].flat[-1] = bad
    rejected(judge(reply(arrays)), "MDW-614", name)


def test_finite_values_too_large_to_square_are_not_called_infinite() -> None:
    arrays = model()
    arrays["norm.running_mean"][0] = 1e300
    rejected(judge(reply(arrays)), "MDW-621", "norm.running_mean", "1e+301")


def test_an_update_may_reach_its_silo_s_share_of_what_the_average_holds_and_no_more() -> None:
    arrays = model()
    share = largest_reach(2)
    arrays["norm.running_mean"][0] = -share
    assert isinstance(judge(reply(arrays, num_examples=1)), Admitted)
    rejected(judge(reply(arrays, num_examples=2)), "MDW-621", "norm.running_mean")
    arrays["norm.running_mean"][0] = np.nextafter(share, np.inf)
    rejected(judge(reply(arrays, num_examples=1)), "MDW-621", "norm.running_mean")


def test_what_is_too_large_does_not_depend_on_what_others_sent() -> None:
    admission = opened()
    arrays = model()
    arrays["norm.running_mean"][0] = largest_reach(2)
    content = reply(arrays, num_examples=1)
    for silo in ("north", "south"):
        verdict = admission.check(content, silo=silo, round=3, phase="train")
        assert isinstance(verdict, Admitted)


def test_a_count_is_not_averaged_and_may_be_as_large_as_it_is() -> None:
    arrays = model()
    arrays["norm.num_batches_tracked"] = np.array(2**62, np.int64)
    assert isinstance(judge(reply(arrays)), Admitted)


def test_the_largest_of_all_chunks_decides() -> None:
    admission = Admission(SPECS)
    values = np.zeros(3 * CHUNK)
    values[0] = 1e20
    admission.open(1, record({"w": np.zeros_like(values)}), ["north"])
    verdict = admission.check(reply({"w": values}), silo="north", round=1, phase="train")
    rejected(verdict, "MDW-621")


@pytest.mark.parametrize("count", [-1, 0, MAX_EXAMPLES + 1, 10.0, float("nan"), [10]])
def test_an_absurd_count_of_examples_is_rejected(count: Any) -> None:
    rejected(judge(reply(model(), num_examples=count)), "MDW-616", protocol.NUM_EXAMPLES)


def test_a_count_of_true_is_not_one() -> None:
    content = reply(model())
    # Flower's record refuses a bool; a release that does not must not make it a weight.
    content[protocol.METRICS].__dict__["_data"][protocol.NUM_EXAMPLES] = True
    rejected(judge(content), "MDW-616", "True")


def test_a_silo_without_validation_examples_may_say_so() -> None:
    content = RecordDict({protocol.METRICS: MetricRecord({protocol.NUM_EXAMPLES: 0})})
    assert judge(content, phase="evaluate") == Admitted(0)


def evaluation(examples: int, **sums: np.ndarray) -> RecordDict:
    """A reply to an evaluation message, with some of its sums replaced."""
    record = sums_of(examples, 1.5)
    for name, values in sums.items():
        record[name] = Array(values)
    metrics = MetricRecord({protocol.NUM_EXAMPLES: examples})
    return RecordDict({protocol.SUMS: record, protocol.METRICS: metrics})


def test_an_evaluation_is_admitted_with_the_sums_that_the_task_declares() -> None:
    assert judge(evaluation(4), phase="evaluate") == Admitted(4)
    without = evaluation(4)
    del without[protocol.SUMS]
    rejected(judge(without, phase="evaluate"), "MDW-610", "'sums'")


@pytest.mark.parametrize(
    ("sums", "says"),
    [
        ({"confusion": np.zeros((9, 9), np.int64)}, "'confusion' is"),
        ({"confusion": np.zeros((10, 10))}, "'confusion' is"),
        ({"confusion": np.full((10, 10), 5)}, "which 4 of 0 to 1 do not add up to"),
        ({"confusion": np.full((10, 10), -1)}, "which 4 of 0 to 1 do not add up to"),
        ({"loss": np.array(np.nan)}, "not finite"),
        ({"size": np.array(0)}, "its size is 0"),
        ({"size": np.array(2**60)}, "its size is"),
        ({"more": np.array(1)}, "with 'more'"),
    ],
)
def test_sums_that_the_task_can_not_have_made_are_rejected(
    sums: dict[str, np.ndarray], says: str
) -> None:
    rejected(judge(evaluation(4, **sums), phase="evaluate"), ("MDW-630", "MDW-612"), says)


def test_sums_that_the_task_s_metrics_can_not_take_are_rejected() -> None:
    def metrics(sums: Sums) -> dict[str, float]:
        raise KeyError("ill")

    admission = Admission(SPECS, metrics)
    admission.open(3, record(model()), ["north"])
    verdict = admission.check(evaluation(4), silo="north", round=3, phase="evaluate")
    rejected(verdict, "MDW-630", "the task's metrics raise KeyError for its sums")


def test_an_empty_confusion_matrix_ends_no_run() -> None:
    admission = Admission(SPECS, partial(metrics_of, DIGITS))
    admission.open(3, record(model()), ["north"])
    liar = evaluation(4, confusion=np.zeros((10, 10), np.int64))
    assert admission.check(liar, silo="north", round=3, phase="evaluate") == Admitted(4)
    said = metrics_of(DIGITS, protocol.to_state(liar[protocol.SUMS]))
    assert math.isnan(said["accuracy"])


def test_a_silo_that_withholds_small_counts_says_so() -> None:
    content = evaluation(4)
    content[protocol.METRICS][protocol.WITHHELD] = 1
    assert judge(content, phase="evaluate") == Admitted(4, withheld=True)


def test_a_missing_or_second_record_is_rejected() -> None:
    rejected(judge(RecordDict({protocol.ARRAYS: record(model())})), "MDW-610", "metric record")
    rejected(
        judge(RecordDict({protocol.METRICS: MetricRecord({protocol.NUM_EXAMPLES: 1})})),
        "MDW-610",
        "array record",
    )
    two = reply(model())
    two["more"] = record(model())
    rejected(judge(two), "MDW-610", "'arrays', 'more'")
    rejected(
        judge(RecordDict({protocol.METRICS: MetricRecord({"loss": 1.0})}), phase="evaluate"),
        "MDW-616",
    )


def test_another_round_is_refused_whoever_says_so() -> None:
    rejected(judge(reply(model()), round=2), "MDW-617", "answers round 2, the open one is 3")
    rejected(judge(reply(model(), server_round=2)), "MDW-617", "round 2")
    assert isinstance(judge(reply(model(), server_round=3)), Admitted)


def test_a_silo_answers_once_in_a_phase() -> None:
    admission = opened()
    assert isinstance(
        admission.check(reply(model()), silo="north", round=3, phase="train"), Admitted
    )
    rejected(admission.check(reply(model()), silo="north", round=3, phase="train"), "MDW-618")
    evaluated = evaluation(4)
    assert isinstance(admission.check(evaluated, silo="north", round=3, phase="evaluate"), Admitted)
    assert isinstance(
        admission.check(reply(model()), silo="south", round=3, phase="train"), Admitted
    )
    admission.open(4, record(model()), ["north"])
    rejected(admission.check(reply(model()), silo="north", round=3, phase="train"), "MDW-617")
    assert isinstance(
        admission.check(reply(model()), silo="north", round=4, phase="train"), Admitted
    )


def test_a_refused_answer_can_not_be_tried_again() -> None:
    admission = opened()
    rejected(
        admission.check(reply(model(), num_examples=-1), silo="north", round=3, phase="train"),
        "MDW-616",
    )
    rejected(admission.check(reply(model()), silo="north", round=3, phase="train"), "MDW-618")


def test_a_silo_that_was_not_asked_is_rejected() -> None:
    rejected(judge(reply(model()), silo="west"), "MDW-619", "the silo was not asked in")


def test_a_reason_stays_short_whatever_a_silo_sends() -> None:
    verdict = judge(reply({f"x{'y' * 5000}{i}": np.zeros(1) for i in range(50)}))
    assert isinstance(verdict, Rejected) and len(verdict.reason) < 800


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (0, "with 'x0'."),
        (2, "with 'x0', 'x1', 'x2'."),
        (3, "with 'x0', 'x1', 'x2' and 1 more."),
    ],
)
def test_a_reason_names_three_and_counts_the_rest(more: int, words: str) -> None:
    extra = {f"x{i}": np.zeros(1) for i in range(more + 1)}
    rejected(judge(reply(model() | extra)), "MDW-611", words)


def test_a_reply_without_any_record_holds_none() -> None:
    rejected(judge(RecordDict()), "MDW-610", "and holds none")


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_make_the_check_raise(data: bytes) -> None:
    rejected(judge(with_data(b"\x93NUMPY\x01\x00" + data)), "MDW-613")


def test_an_array_longer_than_a_chunk_is_checked_to_its_end() -> None:
    admission = Admission(SPECS)
    old = np.zeros(100_001, np.float32)
    new = old.copy()
    new[-1] = 3.0
    admission.open(1, record({"w": old}), ["north"])
    verdict = admission.check(reply({"w": new}), silo="north", round=1, phase="train")
    assert isinstance(verdict, Admitted) and verdict.norm == 3.0
    new[-1] = np.nan
    admission.open(2, record({"w": old}), ["north"])
    rejected(admission.check(reply({"w": new}), silo="north", round=2, phase="train"), "MDW-614")


VARIATES = {"c": {"conv.weight": ("float32", (2, 3, 4)), "bias": ("float64", (2,))}}
"""What an algorithm declares beside the model."""


def variates() -> dict[str, np.ndarray]:
    return {"conv.weight": np.ones((2, 3, 4), np.float32), "bias": np.zeros(2)}


def with_extra(extra: dict[str, dict[str, np.ndarray]]) -> Verdict:
    admission = Admission(SPECS)
    admission.open(3, record(model()), ["north"], VARIATES)
    content = reply(model())
    for name, arrays in extra.items():
        content[name] = record(arrays)
    return admission.check(content, silo="north", round=3, phase="train")


def test_a_declared_record_beside_the_model_is_admitted_and_not_part_of_the_norm() -> None:
    assert with_extra({"c": variates()}) == Admitted(10, 0.0)


@pytest.mark.parametrize(
    ("extra", "code", "words"),
    [
        ({}, "MDW-610", ("2 array records", "'c'")),
        ({"c": {}, "d": {}}, "MDW-610", ("'d'",)),
        ({"d": {}}, "MDW-610", ("'d'",)),
        ({"c": {"bias": np.zeros(2)}}, "MDW-674", ("'c'", "without 'conv.weight'")),
        ({"c": variates() | {"x": np.zeros(1)}}, "MDW-674", ("with 'x'",)),
        ({"c": variates() | {"bias": np.zeros(3)}}, "MDW-612", ("'bias'", "float64 (2,)")),
        ({"c": variates() | {"bias": np.zeros(2, np.float32)}}, "MDW-612", ("float64",)),
        ({"c": variates() | {"bias": np.array([0, np.nan])}}, "MDW-614", ("'bias'",)),
        ({"c": variates() | {"bias": np.array([-np.inf, 0])}}, "MDW-614", ("'bias'",)),
        ({"c": variates() | {"bias": np.array([0, 1e13])}}, "MDW-621", ("'bias'",)),
    ],
)
def test_a_record_that_is_not_as_declared_costs_the_update(
    extra: dict[str, dict[str, np.ndarray]], code: str, words: tuple[str, ...]
) -> None:
    rejected(with_extra(extra), code, *words)


def test_without_a_declaration_no_second_record_is_admitted() -> None:
    content = reply(model())
    content["c"] = record(variates())
    rejected(judge(content), "MDW-610", "'c'")


def test_what_the_silos_keep_is_no_part_of_an_update() -> None:
    admission = Admission(SPECS)
    travelling = {"conv.weight": model()["conv.weight"]}
    admission.open(3, record(travelling), ["north", "south"])
    good = admission.check(reply(travelling), silo="north", round=3, phase="train")
    assert isinstance(good, Admitted)
    rejected(
        admission.check(reply(model()), silo="south", round=3, phase="train"),
        "MDW-611",
        "'norm.running_mean'",
    )
