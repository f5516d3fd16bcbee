"""A worker measures an update as the server would, bit for bit, and nobody else's word is taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from conf.schema import Silo
from server.engines.measuring import Measurer, Measuring
from server.engines.pool import PoolGrid
from server.engines.ray_grid import RayGrid
from server.orchestrator.packed_grid import PackedGrid, PackingGrid
from server.round.admission import DIGEST_BESIDE, Admission
from server.round.judgement import Admitted, Rejected, Verdict
from server.round.sent_model import Known
from server.round.silo_grid import SiloGrid
from server.round.sketch import Sketcher
from strategies.wire import protocol
from strategies.wire.objects import Pieces

SEED = 11


pytestmark = pytest.mark.usefixtures("task_identity")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def model(shift: float = 0.0, size: int = 50_000) -> ArrayRecord:
    """All kinds of arrays that a model may have; the large one takes more than a block."""
    rng = np.random.default_rng(1)
    record = ArrayRecord(
        {
            "z.first": Array(rng.normal(size=size).astype(np.float32) + np.float32(shift)),
            "half": Array((rng.normal(size=77) + shift).astype(np.float16)),
            "double": Array(rng.normal(size=(5, 3)) + shift),
            "far": Array(np.full(40, 1e6 + shift, np.float32)),
            "none": Array(np.zeros((0, 4), np.float32)),
            "count": Array(np.array(7)),
            "flag": Array(np.array([True, False])),
            "complex": Array(rng.normal(size=9) + 1j * shift),
        }
    )
    bits = (rng.normal(size=33) + shift).astype(np.float32).view(np.uint32) >> 16
    record["brain"] = Pieces("bfloat16", (33,), [memoryview(bits.astype("<u2").tobytes())])
    return record


def asked(sent: ArrayRecord) -> Message:
    return Message(RecordDict({protocol.ARRAYS: sent}), message_type="train", dst_node_id=1)


def answer(to: Message, update: ArrayRecord, **more: Any) -> Message:
    numbers = MetricRecord({protocol.NUM_EXAMPLES: 10, protocol.LOSS: 0.5})
    return Message(
        RecordDict({protocol.ARRAYS: update, protocol.METRICS: numbers, **more}), reply_to=to
    )


def opened(sent: ArrayRecord, extra: dict[str, Any] | None = None, seed: int = SEED) -> Admission:
    admission = Admission({}, sketcher=Sketcher(seed))
    admission.open(1, sent, ["north"], extra)
    return admission


def judged(admission: Admission, reply: Message, known: Known | None = None) -> Verdict:
    return admission.check(reply.content, silo="north", round=1, phase="train", known=known)


def known_of(message: Message, reply: Message, sent: ArrayRecord) -> Known:
    measurer = Measurer()
    measured = measurer.measured(Measuring(SEED), measurer.asked_in(message), reply)
    assert measured is not None
    return Known(measured, sent)


def same(one: Verdict, other: Verdict) -> bool:
    """Whether two verdicts have the same bits, also in what is not compared."""
    assert isinstance(one, Admitted) and isinstance(other, Admitted), (one, other)
    assert one.sketch is not None and other.sketch is not None
    return (
        one == other
        and one.largest == other.largest
        and one.digest == other.digest
        and one.sketch.tobytes() == other.sketch.tobytes()
    )


@pytest.mark.parametrize("size", [50_000, DIGEST_BESIDE])
def test_a_worker_measures_what_the_server_would(size: int) -> None:
    sent = model(size=size)
    control = {"c": {"half": ("float16", (77,))}}
    beside = ArrayRecord({"half": Array(np.linspace(-3, 2, 77).astype(np.float16))})
    message = asked(sent)
    reply = answer(message, model(0.25, size), c=beside)
    known = known_of(message, reply, sent)
    by_worker = judged(opened(sent, control), reply, known)
    by_server = judged(opened(sent, control), reply)
    assert same(by_worker, by_server)
    assert isinstance(by_server, Admitted)
    assert by_server.digest
    assert by_server.largest["c"] == {"half": 3.0}
    assert by_server.largest[protocol.ARRAYS]["far"] == 0.25  # its change, not its value


def test_without_what_the_silo_keeps_the_same_is_measured() -> None:
    whole = model()
    travels = ArrayRecord()
    update = ArrayRecord()
    for name, array in model(0.25).items():
        if name != "half":
            travels[name] = whole[name]
            update[name] = array
    message = asked(whole)
    reply = answer(message, update)
    known = known_of(message, reply, whole)
    admission = opened(travels)
    assert admission._trusted(known, admission._model.values_of({"arrays": update}, {}))
    assert same(judged(admission, reply, known), judged(opened(travels), reply))


@pytest.mark.parametrize(
    ("values", "code"),
    [
        (np.full(50_000, np.nan, np.float32), "MDW-614"),
        (np.zeros(49_999, np.float32), "MDW-612"),
        (np.zeros(50_000), "MDW-612"),
    ],
)
def test_what_is_wrong_is_left_to_the_server(values: np.ndarray, code: str) -> None:
    sent = model()
    bad = model()
    bad["z.first"] = Array(values)
    message = asked(sent)
    reply = answer(message, bad)
    measurer = Measurer()
    assert measurer.measured(Measuring(SEED), measurer.asked_in(message), reply) is None
    verdict = judged(opened(sent), reply)
    assert isinstance(verdict, Rejected)
    assert verdict.code == code


def test_a_measure_from_another_model_is_not_taken() -> None:
    sent = model()
    message = asked(model(5.0))
    reply = answer(message, model(0.25))
    # Of the arrays that the silo had, which are not those of the round: equal ones would not do.
    known = known_of(message, reply, message.content[protocol.ARRAYS])
    assert known.measured.squares > judged(opened(sent), reply).norm ** 2  # type: ignore[union-attr]
    assert same(judged(opened(sent), reply, known), judged(opened(sent), reply))


def test_a_measure_of_other_arrays_or_another_sketch_is_not_taken() -> None:
    sent = model()
    message = asked(sent)
    reply = answer(message, model(0.25))
    measured = known_of(message, reply, sent).measured
    fewer = replace(measured, largest={protocol.ARRAYS: {"half": 0.0}})
    of_another = replace(measured, squares=0.0)
    right = judged(opened(sent), reply)
    assert same(judged(opened(sent), reply, Known(fewer, sent)), right)
    # Another seed's sketches can't be compared with this round's.
    assert judged(opened(sent, seed=SEED + 1), reply, Known(of_another, sent)) == right


def test_the_judge_is_the_server_whoever_measured() -> None:
    sent = model()
    message = asked(sent)
    reply = answer(message, model(1000.0))
    admission = opened(sent)
    admission.limits = replace(admission.limits, norm_at_most=1.0)
    verdict = judged(admission, reply, known_of(message, reply, sent))
    assert isinstance(verdict, Rejected)
    assert verdict.code == "MDW-625"
    assert verdict.digest


def test_only_the_pool_takes_the_word_of_a_process() -> None:
    # Over a wire, and from Ray's actors, come messages alone.
    for grid in (PackedGrid, PackingGrid, RayGrid):
        assert grid.measured is SiloGrid.measured
    assert PoolGrid.measured is not SiloGrid.measured


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_that_a_silo_puts_into_its_reply_is_taken_for_a_measure(workers: int) -> None:
    silos = [Silo(f"silo-{i}", i, 3) for i in range(3)]
    sent = ArrayRecord({"w": Array(np.zeros(10, np.float32))})
    with PoolGrid(silos, workers, app="lying_app:app", malloc=False) as grid:
        grid.measure(SEED)
        content = RecordDict({protocol.ARRAYS: sent, protocol.CONFIG: ConfigRecord()})
        messages = [Message(content, node, "train") for node in grid.get_node_ids()]
        ids = grid.push_messages(messages)
        for reply in grid.replies(ids, 30.0):
            assert not reply.has_error(), reply.error
            known = grid.measured(reply)
            assert (known is not None) == (workers > 0)
            assert grid.measured(reply) is None  # once
            verdict = judged(opened(sent), reply, known)
            assert isinstance(verdict, Admitted), verdict
            assert verdict.norm == pytest.approx(np.sqrt(10) * 3)


def test_a_late_reply_leaves_no_measure_behind() -> None:
    sent = ArrayRecord({"w": Array(np.zeros(10, np.float32))})
    with PoolGrid([Silo("silo-0", 0, 1)], 1, app="lying_app:app", malloc=False) as grid:
        grid.measure(SEED)
        content = RecordDict({protocol.ARRAYS: sent, protocol.CONFIG: ConfigRecord()})
        ids = grid.push_messages([Message(content, grid.get_node_ids()[0], "train")])
        list(grid.replies(ids, 30.0))
        assert grid._measured
        again = grid.push_messages([Message(content, grid.get_node_ids()[0], "train")])
        grid.forget([*ids, *again])
        assert not grid.pull_messages(again)


def test_a_model_that_can_not_be_read_is_no_reason_to_end_a_worker() -> None:
    sent = ArrayRecord({"w": Array("float32", (3,), "numpy.ndarray", b"no array")})
    assert Measurer().asked_in(asked(sent)) is None


def test_each_model_is_measured_from_anew() -> None:
    measurer = Measurer()
    found = []
    for shift in (0.0, 1.0):
        message = asked(ArrayRecord({"w": Array(np.full(4, shift, np.float32))}))
        reply = answer(message, ArrayRecord({"w": Array(np.full(4, 3.0, np.float32))}))
        measured = measurer.measured(Measuring(None), measurer.asked_in(message), reply)
        assert measured is not None
        found.append(measured.squares)
    assert found == [36.0, 16.0]
