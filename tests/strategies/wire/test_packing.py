"""What is packed comes back the same to the bit, and a layout that does not fit is refused before memory is taken."""

from __future__ import annotations

import json
from io import BytesIO

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    validate_object_content,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from conf.errors import WireError
from strategies.wire.objects import BFLOAT16, DTYPES, Pieces, deflate, inflate
from strategies.wire.packing import PACKED, pack, pack_content, packing_mod, unpack, unpack_content

NUMPY_TYPES = [dtype for name, dtype in DTYPES.items() if name != BFLOAT16]


def record(**arrays: np.ndarray) -> ArrayRecord:
    made = ArrayRecord()
    for name, array in arrays.items():
        made[name] = Array(array)
    return made


def contents(message: Message) -> tuple[str, dict[str, bytes]]:
    root, _, contents = deflate(message)
    return root, contents


@given(
    st.lists(
        hnp.arrays(st.sampled_from(NUMPY_TYPES), hnp.array_shapes(min_dims=0, min_side=0)),
        max_size=8,
    )
)
def test_any_arrays_come_back_with_name_order_shape_type_and_bits(arrays: list[np.ndarray]) -> None:
    named = {f"w{i}": array for i, array in enumerate(arrays)}
    again = unpack(*pack(record(**named)))
    assert list(again) == list(named)
    for name, array in named.items():
        assert again[name].numpy().dtype == array.dtype and again[name].shape == array.shape
        assert again[name].numpy().tobytes() == array.tobytes()


def test_one_flat_array_per_element_type() -> None:
    flat, layout = pack(
        record(a=np.ones(3, np.float32), b=np.arange(4), c=np.zeros((2, 2), np.float32))
    )
    assert {name: array.shape for name, array in flat.items()} == {"float32": (7,), "int64": (4,)}
    assert json.loads(layout) == [
        ["a", "float32", [3]],
        ["b", "int64", [4]],
        ["c", "float32", [2, 2]],
    ]


def test_bfloat16_keeps_its_bits_under_its_own_name() -> None:
    bits = np.array([0x3F80, 0x7FC0, 0x0001], dtype=np.uint16)
    made = ArrayRecord()
    made["half"] = Pieces(BFLOAT16, (3,), [memoryview(bits.view(np.uint8))])
    again = unpack(*pack(made))["half"]
    assert again.dtype == BFLOAT16 and again.numpy().tolist() == bits.tolist()


def test_fortran_order_and_big_endian_are_straightened() -> None:
    fortran, big = np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(3, dtype=">f4")
    made = record(fortran=fortran)
    buffer = BytesIO()
    np.save(buffer, big)
    made["big"] = Array("float32", (3,), "numpy.ndarray", buffer.getvalue())
    again = unpack(*pack(made))
    assert again["fortran"].numpy().tolist() == fortran.tolist()
    assert again["big"].numpy().tolist() == [0.0, 1.0, 2.0]


def test_unpacked_arrays_are_views_and_still_plain_arrays_to_flower() -> None:
    flat, layout = pack(record(a=np.ones(3, np.float32), b=np.full((2, 2), 7, np.float32)))
    whole = np.arange(7, dtype=np.float32)
    flat["float32"] = Pieces("float32", (7,), [memoryview(whole.view(np.uint8))])
    named = unpack(flat, layout)
    assert np.shares_memory(named["b"].numpy(), whole)
    stock = Array(named["b"].dtype, named["b"].shape, named["b"].stype, named["b"].data)
    assert stock.numpy().tolist() == [[3.0, 4.0], [5.0, 6.0]]
    assert np.load(BytesIO(named["b"].data), allow_pickle=False).tolist() == [
        [3.0, 4.0],
        [5.0, 6.0],
    ]


@pytest.mark.usefixtures("task_identity")
@pytest.mark.parametrize("packed", [False, True])
def test_flowers_own_code_reads_our_objects_and_ours_reads_flowers(packed: bool) -> None:
    arrays = record(
        small=np.arange(5), large=np.random.default_rng(0).random(1_500_000), empty=np.zeros((0, 2))
    )
    content = RecordDict(
        {"arrays": arrays, "config": ConfigRecord({"x": 1}), "metrics": MetricRecord({"y": 2.0})}
    )
    message = Message(pack_content(content) if packed else content, 7, "train")
    root, objects = contents(message)
    for id, one in objects.items():
        validate_object_content(one)
        assert get_object_id(one) == id
    stock = inflate_object_from_contents(root, dict(objects))
    assert isinstance(stock, Message)
    ours = inflate(root, dict(objects), 2**30)
    for read in (stock.content, ours):
        named = unpack_content(read) if packed else read
        assert [(n, a.numpy().tolist()) for n, a in named["arrays"].items()] == [
            (n, a.numpy().tolist()) for n, a in arrays.items()
        ]
        assert named["config"] == ConfigRecord({"x": 1}) and named["metrics"] == MetricRecord(
            {"y": 2.0}
        )


@pytest.mark.usefixtures("task_identity")
def test_the_app_sees_names_and_the_silo_answers_in_the_form_in_which_it_was_asked() -> None:
    seen: list[list[str]] = []

    def app(message: Message, context: Context) -> Message:
        seen.append([*message.content, *message.content["arrays"]])
        return Message(RecordDict({"arrays": message.content["arrays"]}), reply_to=message)

    context = Context(1, 1, {}, RecordDict(), {}, 1)
    content = RecordDict({"arrays": record(a=np.ones(2), b=np.ones(3))})
    packed = packing_mod(Message(pack_content(content), 7, "train"), context, app)
    plain = packing_mod(Message(content, 7, "train"), context, app)
    assert seen == [["arrays", "a", "b"]] * 2
    assert list(packed.content) == ["arrays", PACKED] and list(packed.content["arrays"]) == [
        "float64"
    ]
    assert list(plain.content) == ["arrays"] and list(plain.content["arrays"]) == ["a", "b"]


LAYOUTS = {
    "not JSON": "[",
    "no list": "7",
    "rows of two": '[["a", "float32"]]',
    "a name twice": '[["a", "float32", [1]], ["a", "float32", [2]]]',
    "another type": '[["a", "float64", [3]]]',
    "an unknown type": '[["a", "object", [3]]]',
    "a negative size": '[["a", "float32", [-3]]]',
    "a size that is no number": '[["a", "float32", ["3"]]]',
    "a truth value as size": '[["a", "float32", [true, 3]]]',
    "too many elements": '[["a", "float32", [4]]]',
    "absurdly many": '[["a", "float32", [4611686018427387904, 4611686018427387904]]]',
    "too few": '[["a", "float32", [2]]]',
    "deep nesting": "[" * 100_000,
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_layout_that_does_not_fit_is_refused(case: str) -> None:
    flat, _ = pack(record(a=np.ones(3, np.float32)))
    with pytest.raises(WireError, match="MDW-643"):
        unpack(flat, LAYOUTS[case])


def test_layouts_for_other_records_are_refused() -> None:
    content = pack_content(RecordDict({"arrays": record(a=np.ones(2))}))
    content[PACKED] = ConfigRecord({"others": "[]"})
    with pytest.raises(WireError, match="MDW-643"):
        unpack_content(content)
