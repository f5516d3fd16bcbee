"""An update that travelled encoded is judged by what it says, and refused for what can't be."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from client.sums import specs_of
from client.tasks import task_named
from client.update_form import in_form
from conf.compose import compose
from conf.schema import VARIANTS
from server.engines.measuring import Measurer, Measuring
from server.round.admission import Admission, Limits
from server.round.decoding import Decoding
from server.round.judgement import Admitted, Rejected, Verdict
from server.round.sent_model import Known
from server.round.sketch import Sketcher
from strategies.compression import codec_of
from strategies.compression.form import Form
from strategies.wire import protocol
from strategies.wire.digests import update_digest

pytestmark = pytest.mark.usefixtures("task_identity")

NAMES = list(VARIANTS["compression"])
TENSORS = {
    "conv.weight": torch.linspace(-1, 1, 600).reshape(20, 30),
    "conv.bias": torch.zeros(20),
    "double": torch.linspace(0, 1, 7, dtype=torch.float64),
    "frozen": torch.ones(11),
    "norm.running_mean": torch.zeros(3),
    "norm.num_batches_tracked": torch.tensor(7),
}
SENT = protocol.to_record(TENSORS)


def form(name: str) -> Form:
    codec = codec_of(compose(["task=digits", f"compression={name}"]).compression)
    trained = frozenset({"conv.weight", "conv.bias", "double"})
    return Form(codec, trained, frozenset({"frozen"}), (), 0)


def opened(name: str, limits: Limits | None = None) -> Admission:
    decoding = Decoding(form(name))
    admission = Admission(
        specs_of(task_named("digits")), limits=limits, sketcher=Sketcher(1), decoding=decoding
    )
    admission.open(3, SENT, ["north"])
    return admission


def trained(shift: float) -> dict[str, torch.Tensor]:
    moved = dict(TENSORS)
    for name in ("conv.weight", "conv.bias", "double", "norm.running_mean"):
        moved[name] = moved[name] + shift
    moved["norm.num_batches_tracked"] = torch.tensor(9)
    return moved


def reply(name: str, shift: float = 0.01) -> RecordDict:
    records, _ = in_form(form(name), trained(shift), SENT, "north", 3, {})
    numbers = MetricRecord({protocol.NUM_EXAMPLES: 10, protocol.LOSS: 0.5})
    return RecordDict({**records, protocol.METRICS: numbers})


def judged(name: str, content: RecordDict, limits: Limits | None = None, **given: Any) -> Verdict:
    return opened(name, limits).check(content, silo="north", round=3, phase="train", **given)


def refused(verdict: Verdict, code: str, words: str = "") -> None:
    assert isinstance(verdict, Rejected), verdict
    assert verdict.code == code and words in verdict.reason, verdict
    assert verdict.digest


@pytest.mark.parametrize("name", NAMES)
def test_an_admitted_update_is_whole_and_its_digest_and_size_are_of_what_travelled(
    name: str,
) -> None:
    content = reply(name)
    digest, size = update_digest(content), protocol.size(content)
    verdict = judged(name, content)
    assert isinstance(verdict, Admitted)
    assert (verdict.digest, verdict.size) == (digest, size)
    whole = protocol.records(content, ArrayRecord)
    assert list(whole) == [protocol.ARRAYS] and list(whole[protocol.ARRAYS]) == list(SENT)
    values = protocol.to_numpy(whole[protocol.ARRAYS])
    for array, before in zip(values.values(), TENSORS.values(), strict=True):
        assert array.shape == tuple(before.shape) and array.dtype == before.numpy().dtype
    assert values["norm.num_batches_tracked"] == 9
    assert (values["norm.running_mean"] == np.float32(0.01)).all()
    assert (values["frozen"] == 1).all()
    change = np.concatenate([(values[n] - TENSORS[n].numpy()).reshape(-1) for n in TENSORS])
    assert verdict.norm == pytest.approx(np.linalg.norm(change[:-1]), rel=1e-3)


@pytest.mark.parametrize("name", ["bf16", "fp16", "int8", "int4", "lowrank"])
def test_what_is_decoded_is_near_what_was_trained(name: str) -> None:
    content = reply(name)
    assert isinstance(judged(name, content), Admitted)
    values = protocol.to_numpy(content[protocol.ARRAYS])  # type: ignore[arg-type]  # a record of arrays
    for array in ("conv.weight", "conv.bias", "double"):
        np.testing.assert_allclose(values[array], trained(0.01)[array].numpy(), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_worker_of_the_pool_measures_what_the_server_would(name: str) -> None:
    config = ConfigRecord({protocol.ROUND: 3})
    message = Message(
        RecordDict({protocol.ARRAYS: SENT, protocol.CONFIG: config}),
        message_type="train",
        dst_node_id=1,
    )
    content = reply(name)
    measurer = Measurer()
    measured = measurer.measured(
        Measuring(1, Decoding(form(name))),
        measurer.asked_in(message),
        Message(content, reply_to=message),
    )
    assert measured is not None
    verdict = judged(name, content, known=Known(measured, SENT))
    again = judged(name, reply(name))
    assert isinstance(verdict, Admitted) and isinstance(again, Admitted)
    assert (verdict.norm, verdict.largest, verdict.digest) == (
        again.norm,
        again.largest,
        again.digest,
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_norm_is_that_of_what_was_decoded(name: str) -> None:
    limits = Limits(norm_at_most=1e-6)
    refused(judged(name, reply(name), limits), "MDW-625")


def without(record: str, array: str) -> Callable[[RecordDict], None]:
    def take(content: RecordDict) -> None:
        del content[record][array]  # type: ignore[attr-defined]  # a record of arrays

    return take


def put(record: str, name: str, values: np.ndarray) -> Callable[[RecordDict], None]:
    def set_it(content: RecordDict) -> None:
        content[record][name] = Array(values)  # type: ignore[index]  # a record of arrays

    return set_it


def drop_change(content: RecordDict) -> None:
    del content[protocol.CHANGE]


CODES = np.zeros(627, np.int8)
PLACES = np.arange(6, dtype=np.uint32)


@pytest.mark.parametrize(
    ("name", "wrong", "code"),
    [
        ("int8", drop_change, "MDW-610"),
        ("int8", without("change", "scales"), "MDW-684"),
        ("int8", put("change", "more", CODES), "MDW-684"),
        ("int8", put("arrays", "conv.weight", np.zeros((20, 30), np.float32)), "MDW-684"),
        ("int8", put("arrays", "frozen", np.zeros(11, np.float32)), "MDW-684"),
        ("int8", without("arrays", "norm.running_mean"), "MDW-684"),
        ("int8", put("arrays", "norm.running_mean", np.zeros(4, np.float32)), "MDW-612"),
        ("int8", put("change", "codes", CODES[1:]), "MDW-612"),
        ("int8", put("change", "codes", CODES.astype(np.uint8)), "MDW-612"),
        ("int8", put("change", "scales", np.zeros(5)), "MDW-612"),
        ("int8", put("change", "scales", np.full(5, np.nan, np.float32)), "MDW-614"),
        ("topk", put("change", "places", PLACES[::-1].copy()), "MDW-685"),
        ("topk", put("change", "places", np.zeros(6, np.uint32)), "MDW-685"),
        ("topk", put("change", "places", PLACES + np.uint32(627)), "MDW-685"),
        ("topk", put("change", "values", np.full(6, np.inf, np.float32)), "MDW-614"),
        ("randk", put("change", "values", np.full(6, -np.nan, np.float32)), "MDW-614"),
        ("fp16", put("change", "values", np.full(627, np.inf, np.float16)), "MDW-614"),
        ("bf16", put("change", "values", np.full(627, 0x7F80, np.uint16)), "MDW-612"),
        ("lowrank", put("change", "factors", np.full(200, 3e38, np.float32)), "MDW-614"),
        ("none", put("change", "values", CODES), "MDW-610"),
    ],
)
def test_what_can_t_be_is_refused(
    name: str, wrong: Callable[[RecordDict], None], code: str
) -> None:
    content = reply(name)
    if protocol.CHANGE not in content:
        content[protocol.CHANGE] = ArrayRecord()
    wrong(content)
    refused(judged(name, content), code)


def test_a_refused_update_is_left_as_it_came() -> None:
    content = reply("int8")
    refused(judged("int8", content, Limits(norm_at_most=1e-9)), "MDW-625")
    assert protocol.CHANGE in content


def test_a_change_that_leads_out_of_the_numbers_is_refused_as_any_other() -> None:
    content = reply("int8")
    put("change", "codes", np.full(627, 127, np.int8))(content)
    put("change", "scales", np.full(5, 3e38, np.float32))(content)
    refused(judged("int8", content), "MDW-614")


def test_no_memory_is_taken_for_what_a_silo_declares() -> None:
    content = reply("int8")
    lie = Array("int8", (2**40,), "numpy.ndarray", content[protocol.CHANGE]["codes"].data)  # type: ignore[call-overload,index]  # a record of arrays
    content[protocol.CHANGE]["codes"] = lie  # type: ignore[index]  # the same
    admission = opened("int8")
    tracemalloc.start()
    verdict = admission.check(content, silo="north", round=3, phase="train")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(verdict, Rejected) and verdict.code == "MDW-612"
    assert peak < 2**20


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_halves_come_out_of_every_form_as_they_were_sent(name: str, dtype: torch.dtype) -> None:
    before = {"conv.weight": torch.linspace(-1, 1, 600).reshape(20, 30).to(dtype)}
    sent = protocol.to_record(before)
    # Of each value the neighbour or so: what a codec leaves of it is rounded to the type again.
    after = {"conv.weight": before["conv.weight"] + 0.02}
    records, _ = in_form(form(name), after, sent, "north", 3, {})
    plain = protocol.size(RecordDict({"a": sent}))
    assert sum(protocol.size(RecordDict({"a": r})) for r in records.values()) <= 1.1 * plain
    decoding = None if form(name).codec is None else Decoding(form(name))
    admission = Admission(specs_of(task_named("digits")), decoding=decoding)
    admission.open(3, sent, ["north"])
    numbers = MetricRecord({protocol.NUM_EXAMPLES: 10, protocol.LOSS: 0.5})
    content = RecordDict({**records, protocol.METRICS: numbers})
    verdict = admission.check(content, silo="north", round=3, phase="train")
    assert isinstance(verdict, Admitted)
    whole = protocol.records(content, ArrayRecord)[protocol.ARRAYS]
    assert whole["conv.weight"].dtype == str(dtype).removeprefix("torch.")
    made = protocol.to_state(whole)["conv.weight"]
    change = made.float() - before["conv.weight"].float()
    assert verdict.norm == pytest.approx(float(change.norm()), rel=1e-5)
    if name == "none":
        assert torch.equal(made, after["conv.weight"])
    elif name in ("bf16", "fp16"):
        torch.testing.assert_close(made, after["conv.weight"], rtol=0.01, atol=0.0005)
    elif name in ("int8", "int4"):
        assert float((change - 0.02).abs().max()) < 0.02


def test_a_single_in_the_place_of_a_half_is_refused() -> None:
    sent = protocol.to_record({"conv.weight": torch.ones(3, dtype=torch.bfloat16)})
    admission = Admission(specs_of(task_named("digits")))
    admission.open(3, sent, ["north"])
    numbers = MetricRecord({protocol.NUM_EXAMPLES: 10, protocol.LOSS: 0.5})
    for dtype, code in ((torch.float32, "MDW-612"), (torch.int16, "MDW-612")):
        wrong = protocol.to_record({"conv.weight": torch.ones(3, dtype=dtype)})
        content = RecordDict({protocol.ARRAYS: wrong, protocol.METRICS: numbers})
        refused(admission.check(content, silo="north", round=3, phase="train"), code)
        admission.open(3, sent, ["north"])
    infinite = torch.full((3,), float("inf"), dtype=torch.bfloat16)
    content = RecordDict(
        {protocol.ARRAYS: protocol.to_record({"conv.weight": infinite}), protocol.METRICS: numbers}
    )
    refused(admission.check(content, silo="north", round=3, phase="train"), "MDW-614")
