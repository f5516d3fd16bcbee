"""Objects of Flower's wire from a party that lies: refused before memory is taken, whatever is damaged."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib import format as npy_format

from conf.errors import WireError
from strategies.wire import objects
from strategies.wire.objects import array_of, check_tree, deflate, elements, inflate, tree_size
from strategies.wire.packing import pack_content


def record(**arrays: np.ndarray) -> ArrayRecord:
    made = ArrayRecord()
    for name, array in arrays.items():
        made[name] = Array(array)
    return made


def contents(message: Message) -> tuple[str, dict[str, bytes]]:
    root, _, contents = deflate(message)
    return root, contents


def lying(
    header: bytes, shape: tuple[int, ...], dtype: str = "float32", chunks: int = 1
) -> Message:
    """A message whose array says one thing in its header and holds another."""
    made = ArrayRecord()
    made["a"] = Array(dtype, shape, "numpy.ndarray", header * chunks)
    return Message(RecordDict({"arrays": made}), 7, "train")


def npy(text: str, body: bytes = b"") -> bytes:
    raw = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw + body


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (2000000000,)}"
ONE_FLOAT = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}"
ONE_DOUBLE = "{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}"
ONE_OBJECT = "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"
LIES = {
    "128 bytes that ask for 8 GB": (npy(HUGE), (2_000_000_000,), "float32"),
    "another shape than declared": (npy(ONE_FLOAT, b"1234"), (2,), "float32"),
    "another type than declared": (npy(ONE_DOUBLE, b"12345678"), (1,), "float32"),
    "objects": (npy(ONE_OBJECT, b"12345678"), (1,), "object"),
    "code in the header": (
        npy("{'descr': __import__('os').system('false'), 'shape': (1,)}"),
        (1,),
        "float32",
    ),
    "no header": (b"nothing of the kind", (1,), "float32"),
    "an empty array of bytes": (b"", (0,), "float32"),
    "a header without end": (b"\x93NUMPY\x01\x00\xff\xff" + b"{" * 65535, (1,), "float32"),
}


@pytest.mark.usefixtures("task_identity")
@pytest.mark.parametrize("case", LIES)
def test_an_array_that_is_not_what_it_says_is_refused_before_memory_is_taken(case: str) -> None:
    header, shape, dtype = LIES[case]
    root, objects = contents(lying(header, shape, dtype))
    tracemalloc.start()
    with pytest.raises(WireError, match=r"MDW-64[01]"):
        inflate(root, objects, 2**40)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.usefixtures("task_identity")
def test_arrays_beyond_the_limit_are_refused_however_few_bytes_they_travel_as() -> None:
    zeros = record(
        a=np.zeros(20 * 2**20 // 4, np.float32)
    )  # chunks of zeros are one and the same object
    root, objects = contents(Message(RecordDict({"arrays": zeros}), 7, "train"))
    assert sum(map(len, objects.values())) < 16 * 2**20
    with pytest.raises(WireError, match="MDW-642"):
        inflate(root, dict(objects), 19 * 2**20)
    assert not isinstance(inflate(root, objects, 21 * 2**20), WireError)


@pytest.mark.usefixtures("task_identity")
@given(st.integers(0, 100), st.integers(0, 10_000), st.integers(0, 255))
def test_damaged_objects_end_in_a_wire_error_or_a_message(
    which: int, where: int, value: int
) -> None:
    content = RecordDict({"arrays": record(a=np.ones(3)), "c": ConfigRecord({"x": 1})})
    root, objects = contents(Message(pack_content(content), 7, "train"))
    id = list(objects)[which % len(objects)]
    damaged = bytearray(objects[id])
    damaged[where % len(damaged)] = value
    objects[id] = bytes(damaged)
    try:
        inflate(root, objects, 2**20)
    except WireError as error:
        assert error.code in ("MDW-640", "MDW-641", "MDW-642")


@pytest.mark.usefixtures("task_identity")
def test_a_tree_of_too_many_objects_or_too_deep_is_refused() -> None:
    from flwr.proto.message_pb2 import ObjectTree

    _, tree, objects = deflate(Message(RecordDict({"arrays": record(a=np.ones(3))}), 7, "train"))
    assert tree_size(tree, 5) == len(objects) == 5
    with pytest.raises(WireError, match="MDW-642"):
        tree_size(tree, 4)
    deep = ObjectTree(object_id="x")
    for _ in range(6):
        deep = ObjectTree(object_id="x", children=[deep])
    with pytest.raises(WireError, match="MDW-642"):
        tree_size(deep, 100)


def object_of(kind: str, children: list[str], body: bytes) -> tuple[str, bytes]:
    content = f"{kind} {','.join(children)} {len(body)}".encode() + b"\0" + body
    return hashlib.sha256(content).hexdigest(), content


def one_array(
    declared: dict[str, object], first: bytes, *others: bytes
) -> tuple[str, dict[str, bytes]]:
    """A message of one array, whose description and chunks anybody may write."""
    chunks = dict(object_of("ArrayChunk", [], body) for body in (first, *others))
    array = object_of("Array", list(chunks), json.dumps(declared).encode())
    arrays = object_of("ArrayRecord", [array[0]], json.dumps({"a": array[0]}).encode())
    root, _, real = deflate(Message(RecordDict({"arrays": record(a=np.ones(1))}), 7, "train"))
    whole = dict([*chunks.items(), array, arrays])
    names = {array[0]: array[0]}
    for id, content in real.items():
        head, _, body = content.partition(b"\0")
        kind, children, _ = head.decode().split(" ")
        if kind not in ("RecordDict", "Message"):
            names[id] = arrays[0]
            continue
        for old, new in names.items():
            body = body.replace(old.encode(), new.encode())
        below = [names[child] for child in children.split(",")]
        names[id], content = object_of(kind, below, body)
        whole[names[id]] = content
    return names[root], whole


@pytest.mark.usefixtures("task_identity")
@pytest.mark.parametrize("side", ["3.0", "True"])
def test_a_shape_that_equals_ours_and_is_written_otherwise_is_nobody_else_s(side: str) -> None:
    """Headers are made once for equal shapes: the next model would have had the liar's."""
    objects._header.cache_clear()
    count = 3 if side == "3.0" else 1
    declared = {"dtype": "float32", "stype": "numpy.ndarray", "arraychunk_ids": [0]}
    honest = array_of(np.zeros(count, np.float32)).data
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({side},)}}"
    for body in (honest, npy(text, bytes(4 * count))):
        objects._header.cache_clear()
        root, lie = one_array({**declared, "shape": [json.loads(side.lower())]}, body)
        try:
            read = inflate(root, lie, 2**20, hashed=True)
        except WireError as error:
            assert error.code == "MDW-641"
        else:
            assert isinstance(read, RecordDict)
            array = read["arrays"]["a"]
            assert [type(n) for n in array.shape] == [int] and array.numpy().shape == (count,)
        assert array_of(np.zeros(count, np.float32)).data == Array(np.zeros(count, np.float32)).data


@pytest.mark.usefixtures("task_identity")
def test_an_array_of_a_great_many_small_chunks_is_refused_before_there_is_a_list_of_them() -> None:
    declared = {"dtype": "float32", "stype": "numpy.ndarray", "shape": [1]}
    first = array_of(np.ones(1, np.float32)).data
    root, lie = one_array({**declared, "arraychunk_ids": [0, *[1] * 100_000]}, first, b"")
    tracemalloc.start()
    with pytest.raises(WireError, match="MDW-641"):
        inflate(root, lie, 2**40)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * max(map(len, lie.values()))


def test_a_wide_tree_is_counted_before_there_is_a_list_of_its_objects() -> None:
    class Wide:
        def __len__(self) -> int:
            return 10**6

        def __iter__(self) -> object:
            raise AssertionError("it was looked at")

    with pytest.raises(WireError, match="MDW-642"):
        tree_size(SimpleNamespace(children=Wide()), 50_000)  # type: ignore[arg-type]


@pytest.mark.usefixtures("task_identity")
def test_a_tree_that_names_another_content_than_its_message_is_refused() -> None:
    _, tree, objects = deflate(Message(RecordDict({"arrays": record(a=np.ones(3))}), 7, "train"))
    check_tree(tree, objects)
    tree.children[0].object_id = "0" * 64
    with pytest.raises(WireError, match="MDW-640"):
        check_tree(tree, objects)
    with pytest.raises(WireError, match="MDW-640"):
        check_tree(tree, {tree.object_id: b"nothing of the kind"})


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<i8", "?", "<f2"])
def test_elements_are_those_that_flower_reads(dtype: str, order: str) -> None:
    values = np.asarray(np.arange(6).reshape(2, 3), dtype=dtype, order=order)  # type: ignore[call-overload]
    array = Array(values)
    assert np.array_equal(elements(array), array.numpy())
    assert elements(array).shape == (2, 3)


def test_elements_can_not_be_written_where_others_read_them() -> None:
    with pytest.raises(ValueError, match="read-only"):
        elements(Array(np.zeros(3)))[0] = 1


def test_a_header_is_parsed_once_however_many_arrays_have_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objects._parsed.cache_clear()
    parsed = []
    real = npy_format.read_array_header_1_0

    def counted(file: BytesIO) -> object:
        parsed.append(file)
        return real(file)

    monkeypatch.setattr(npy_format, "read_array_header_1_0", counted)
    for value in range(5):
        assert elements(Array(np.full((3, 2), value, np.float32)))[0, 0] == value
    assert len(parsed) == 1


def test_a_header_that_says_a_length_beyond_its_bytes_is_refused() -> None:
    whole = Array(np.zeros(3)).data
    lying = whole[:8] + b"\xff\xff" + whole[10:]
    with pytest.raises(WireError, match="MDW-641"):
        elements(Array("float64", (3,), "numpy.ndarray", lying))


@pytest.mark.parametrize(
    "values",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6, dtype=np.float16)[::2],
        np.array(7),
        np.zeros((0, 4), np.bool_),
        np.arange(3, dtype=">i4"),
    ],
    ids=["float32", "Fortran", "strided", "scalar", "empty", "big-endian"],
)
def test_an_array_has_the_bytes_that_flower_gives_it(values: np.ndarray) -> None:
    ours = array_of(values)
    flowers = Array(values)
    assert (ours.dtype, tuple(ours.shape), ours.stype) == (
        flowers.dtype,
        tuple(flowers.shape),
        flowers.stype,
    )
    assert ours.data == flowers.data
    values[...] = 1
    assert ours.data == flowers.data
