"""A silo makes the whole model of a step, and says so where it can't."""

from __future__ import annotations

import json

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from client import model_step
from client.model_step import KEPT, step_mod, whole
from conf.compose import compose
from conf.errors import WireError
from server.round.downlink import Downlink
from strategies.wire import protocol, run_config
from strategies.wire.digests import arrays_digest

CONF = compose(["task=digits", "compression.down=int8"])

pytestmark = pytest.mark.usefixtures("task_identity")


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_step, "_models", {})


def model(shift: float = 0.0) -> ArrayRecord:
    return protocol.to_record({"w": torch.linspace(-1, 1, 600) + shift, "n": torch.tensor(2)})


def told(arrays: ArrayRecord, **step: str) -> RecordDict:
    text = run_config.pack(CONF)
    config = ConfigRecord({protocol.RUN_CONFIG: text})
    return RecordDict(
        {protocol.ARRAYS: arrays, protocol.CONFIG: config, protocol.STEP: ConfigRecord({**step})}
    )


def steps() -> tuple[RecordDict, RecordDict, ArrayRecord]:
    """A whole first model, a step from it to the second, and the second."""
    down = Downlink.of(CONF.compression, {"w"}, 0)
    assert down is not None
    first = model()
    offer = down.next(first, model(0.01), 1)
    assert offer.step is not None
    begin = told(first, to=offer.before)
    names = json.dumps(offer.step.coded)
    step = told(offer.step.whole, **{"to": offer.digest, "from": offer.before, "coded": names})
    step[protocol.CHANGE] = offer.step.change
    return begin, step, offer.model


def arrays_of(content: RecordDict) -> ArrayRecord:
    assert set(content) == {protocol.ARRAYS, protocol.CONFIG}
    return protocol.records(content, ArrayRecord)[protocol.ARRAYS]


def test_a_step_from_the_model_that_is_here_is_the_server_s_model_to_the_bit() -> None:
    begin, step, model = steps()
    assert arrays_digest(arrays_of(whole(begin))) == begin[protocol.STEP]["to"]  # type: ignore[index]  # a config record
    assert arrays_digest(arrays_of(whole(step))) == arrays_digest(model)
    # The same model again, of which nothing is sent.
    again = told(ArrayRecord(), **{"to": arrays_digest(model), "from": arrays_digest(model)})
    again[protocol.CHANGE] = ArrayRecord()
    assert arrays_digest(arrays_of(whole(again))) == arrays_digest(model)


def test_a_process_that_has_not_got_the_model_before_says_so() -> None:
    _, step, _ = steps()
    with pytest.raises(WireError, match="MDW-687"):
        whole(step)


def test_a_step_that_leads_elsewhere_is_refused_and_not_kept() -> None:
    begin, step, _ = steps()
    whole(begin)
    other = RecordDict({**step})
    other[protocol.STEP] = ConfigRecord({**step[protocol.STEP], "to": "0" * 64})  # type: ignore[dict-item]  # a config record
    with pytest.raises(WireError, match=r"MDW-688: .*another model"):
        whole(other)
    assert "0" * 64 not in model_step._models


@pytest.mark.parametrize("coded", ["", "{}", "[1]", '["w", "w"]', '["other"]', "[" * 10_000])
def test_names_that_can_t_be_are_refused(coded: str) -> None:
    begin, step, _ = steps()
    whole(begin)
    step[protocol.STEP] = ConfigRecord({**step[protocol.STEP], "coded": coded})  # type: ignore[dict-item]  # a config record
    with pytest.raises(WireError, match="MDW-688"):
        whole(step)


def test_few_models_are_kept() -> None:
    for number in range(5):
        whole(told(model(number), to=str(number)))
    assert list(model_step._models) == ["3", "4"] and KEPT == 2


def test_a_message_without_a_step_is_left_alone() -> None:
    asked = Message(RecordDict({protocol.ARRAYS: model()}), 2, "train")
    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    seen: list[Message] = []

    def app(message: Message, context: Context) -> Message:
        seen.append(message)
        return message

    content = asked.content
    assert step_mod(asked, context, app) is asked and seen[0].content is content
