"""What leaves a silo under each compression, and what it keeps for its next round."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Context, Message
from torch import Tensor

from client.app import app
from client.update_form import in_form
from conf.compose import compose
from conf.errors import WireError
from conf.schema import Conf
from strategies.compression import codec_of
from strategies.compression.form import Form
from strategies.wire import protocol
from tests.client.test_app import context, message

pytestmark = pytest.mark.usefixtures("task_identity")


def form(name: str = "int8") -> Form:
    codec = codec_of(compose(["task=digits", f"compression={name}"]).compression)
    return Form(codec, frozenset({"w", "half", "ghost"}), frozenset({"ice"}), (), 0)


def leaves(shift: float = 0.0) -> dict[str, Tensor]:
    return {
        "w": torch.linspace(-1, 1, 24).reshape(4, 6) + shift,
        "half": torch.full((3,), 0.5 + shift, dtype=torch.bfloat16),
        "ice": torch.ones(5),
        "running_var": torch.full((2,), 3.0 + shift),
        "steps": torch.tensor(7),
    }


def records(name: str, shift: float = 0.25) -> dict[str, ArrayRecord]:
    sent = protocol.to_record(leaves())
    made, _ = in_form(form(name), leaves(shift), sent, "north", 1, {})
    return made


def test_without_a_form_the_model_travels_as_it_is() -> None:
    made, left_out = in_form(None, leaves(), ArrayRecord(), "north", 1, {})
    assert list(made) == [protocol.ARRAYS] and list(made[protocol.ARRAYS]) == list(leaves())
    assert left_out == {}


def test_buffers_travel_whole_and_frozen_weights_not_at_all() -> None:
    made = records("int8")
    assert list(made[protocol.ARRAYS]) == ["running_var", "steps"]
    assert set(made[protocol.CHANGE]) == {"codes", "scales"}
    assert made[protocol.CHANGE]["codes"].shape == (27,)


def test_without_compression_only_frozen_weights_are_left_out() -> None:
    made = records("none")
    assert list(made) == [protocol.ARRAYS]
    assert list(made[protocol.ARRAYS]) == ["w", "half", "running_var", "steps"]


def test_halves_travel_in_the_type_in_which_they_came() -> None:
    sent = protocol.to_record(leaves())
    made, _ = in_form(None, leaves(0.25), sent, "north", 1, {})
    assert made[protocol.ARRAYS]["half"].dtype == "bfloat16"
    # A run of an older release, whose models were float32.
    older = protocol.to_wide_record(leaves())
    made, _ = in_form(None, leaves(0.25), older, "north", 1, {})
    assert made[protocol.ARRAYS]["half"].dtype == "float32"
    assert protocol.to_numpy(made[protocol.ARRAYS])["half"].tolist() == [0.75] * 3


def test_bfloat16_travels_under_its_own_name() -> None:
    values = records("bf16")[protocol.CHANGE]["values"]
    assert values.dtype == "bfloat16" and values.shape == (27,)
    bits = protocol.to_numpy(records("bf16")[protocol.CHANGE])["values"].astype(np.uint32) << 16
    assert bits.view(np.float32).tolist() == [0.25] * 27


@pytest.mark.parametrize(("name", "shift"), [("int8", float("nan")), ("fp16", 1e5)])
def test_a_change_that_can_t_be_encoded_is_an_error_of_the_silo(name: str, shift: float) -> None:
    with pytest.raises(WireError, match="MDW-686: The change of round 1"):
        records(name, shift)


@pytest.fixture(scope="module")
def conf() -> Conf:
    return compose(["task=digits", "data.examples=200", "federation.size=2", "compression=topk"])


def asked(conf: Conf, round: int, counted: int) -> Message:
    return message(conf, **{protocol.ROUND: round, protocol.COUNTED: counted})


def change_of(reply: Message) -> dict[str, bytes]:
    record = reply.content[protocol.CHANGE]
    assert isinstance(record, ArrayRecord)
    return {name: array.data for name, array in record.items()}


def test_what_was_left_out_is_sent_in_a_later_round_if_the_first_one_counted(conf: Conf) -> None:
    here: Context = context(conf)
    first = app(asked(conf, 1, 0), here)
    held = dict(here.state)
    # Round 1 never counted: round 2 goes on from nothing.
    lost = change_of(app(asked(conf, 2, 0), here))
    here.state.clear()
    for name, record in held.items():
        here.state[name] = record
    kept = change_of(app(asked(conf, 2, 1), here))
    assert lost != kept
    alone = change_of(app(asked(conf, 2, 0), context(conf)))
    assert lost == alone
    assert change_of(first) == change_of(app(asked(conf, 1, 0), context(conf)))


def test_a_silo_that_has_lost_what_it_left_out_goes_on(conf: Conf) -> None:
    reply = app(asked(conf, 5, 4), context(conf))
    assert not reply.has_error() and protocol.CHANGE in reply.content


def test_whatever_the_compression_the_same_model_is_trained(conf: Conf) -> None:
    plain = dataclasses.replace(conf, compression=compose(["task=digits"]).compression)
    whole = protocol.to_numpy(app(message(plain), context(plain)).content[protocol.ARRAYS])  # type: ignore[arg-type]  # a record of arrays
    sent = protocol.to_numpy(message(plain).content[protocol.ARRAYS])  # type: ignore[arg-type]  # the same
    change = protocol.to_numpy(app(message(conf), context(conf)).content[protocol.CHANGE])  # type: ignore[arg-type]  # the same
    names = sorted(whole)
    row = np.concatenate([(whole[name] - sent[name]).reshape(-1) for name in names])
    np.testing.assert_array_equal(row[change["places"]], change["values"])
