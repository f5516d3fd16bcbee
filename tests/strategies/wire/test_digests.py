"""Both sides take the same digest of the same values, however they were packed."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.inflatable.inflatable_object import get_object_id

from strategies.wire import objects
from strategies.wire.digests import arrays_digest, update_digest
from strategies.wire.objects import deflate, inflate, inflate_content
from strategies.wire.packing import pack_content, unpack, unpack_content

ROOT = Path(__file__).parents[3]


def test_the_digest_of_arrays_is_of_their_values_and_not_of_their_packing() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    plain = ArrayRecord({"a": Array(values), "b": Array(np.array(1))})
    other = ArrayRecord({"b": Array(np.array(1)), "a": Array(np.asfortranarray(values))})
    assert plain["a"].data != other["a"].data
    assert arrays_digest(plain) == arrays_digest(other)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a + 1,
        lambda a: a.astype(np.float64),
        lambda a: a.reshape(4, 3),
        lambda a: a[:, ::-1],
    ],
)
def test_the_digest_of_arrays_changes_with_each_of_their_parts(
    change: Callable[[np.ndarray], np.ndarray],
) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    one, two = (
        ArrayRecord({"a": Array(values)}),
        ArrayRecord({"a": Array(np.ascontiguousarray(change(values)))}),
    )
    assert arrays_digest(one) != arrays_digest(two)
    assert arrays_digest(one) != arrays_digest(ArrayRecord({"b": Array(values)}))


def test_the_digest_of_an_array_that_can_not_be_read_is_a_value_error() -> None:
    bad = ArrayRecord({"a": Array(dtype="float32", shape=(3,), stype="numpy.ndarray", data=b"x")})
    with pytest.raises(ValueError, match="'a'"):
        arrays_digest(bad)


class TestOfAnUpdate:
    """A digest that is made of the chunks' digests."""

    @pytest.fixture
    def update(self) -> dict[str, dict[str, np.ndarray]]:
        """Two types of elements, an array across the border of two chunks, one without elements."""
        rng = np.random.default_rng(1)
        model = {
            "a": rng.normal(size=(1000, 1000)).astype(np.float32),
            "count": np.array(7),
            "b": rng.normal(size=(700, 1000)).astype(np.float32),
            "none": np.zeros((0, 3), np.float32),
        }
        return {"arrays": model, "c": {"a": np.ones((2, 2)), "b": np.full(3, -0.0)}}

    @staticmethod
    def content(update: Mapping[str, Mapping[str, np.ndarray]]) -> RecordDict:
        return RecordDict(
            {name: ArrayRecord({n: Array(a) for n, a in of.items()}) for name, of in update.items()}
        )

    def test_is_what_the_page_says(
        self, update: dict[str, dict[str, np.ndarray]], tmp_path: Path
    ) -> None:
        page = (ROOT / "docs" / "ledger.md").read_text()
        (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
        assert len(code.strip().splitlines()) < 40
        (tmp_path / "page.py").write_text(code)
        found = runpy.run_path(str(tmp_path / "page.py"))["update_digest"](update)
        assert found == update_digest(self.content(update))

    def test_is_the_same_packed_unpacked_and_over_the_wire(
        self, update: dict[str, dict[str, np.ndarray]]
    ) -> None:
        content = self.content(update)
        packed = pack_content(content)
        id, _, contents = deflate(packed)
        arrived = inflate_content(id, contents, 10**9)
        expected = update_digest(content)
        assert update_digest(packed) == expected
        assert update_digest(arrived) == expected
        assert update_digest(unpack_content(arrived)) == expected

    def test_is_the_same_on_both_sides_of_what_numpy_has_no_type_for(self) -> None:
        halves = objects.as_declared("bfloat16", np.arange(9, dtype=np.uint16))
        coded = ArrayRecord({"w.bits": Array(np.arange(5, dtype=np.uint8))})
        content = RecordDict({"arrays": ArrayRecord({"w": halves}), "change": coded})
        packed = pack_content(content)
        id, _, contents = deflate(packed)
        arrived = unpack_content(inflate_content(id, contents, 10**9))
        assert update_digest(packed) == update_digest(arrived) == update_digest(content) != ""

    @pytest.mark.parametrize(
        "change",
        [
            lambda u: u["arrays"]["a"].__setitem__((0, 0), 5),
            lambda u: u["arrays"].update(b=u["arrays"]["b"].reshape(1000, 700)),
            lambda u: u["arrays"].update(count=np.array(7, np.int32)),
            lambda u: u["arrays"].update(d=u["arrays"].pop("b")),
            lambda u: u.update(e=u.pop("c")),
            lambda u: u["c"].update(b=np.zeros(3)),
        ],
    )
    def test_changes_with_each_of_its_parts(
        self,
        update: dict[str, dict[str, np.ndarray]],
        change: Callable[[dict[str, dict[str, np.ndarray]]], None],
    ) -> None:
        before = update_digest(self.content(update))
        change(update)
        assert update_digest(self.content(update)) not in ("", before)

    def test_is_empty_where_there_is_no_update_or_none_that_can_be_read(self) -> None:
        bad = Array(dtype="float32", shape=(3,), stype="numpy.ndarray", data=b"x")
        assert update_digest({"arrays": ArrayRecord({"a": bad})}) == ""
        assert update_digest({"sums": ArrayRecord()}) == ""


@pytest.mark.usefixtures("task_identity")
class TestAnUpdateThatArrived:
    """Its chunks were hashed as they came."""

    VALUES = np.arange(3_000_000, dtype=np.float32)

    def sent(self) -> tuple[str, dict[str, bytes], str]:
        """Return the id of a reply with a packed update, its objects, and the update's digest."""
        content = RecordDict({"arrays": ArrayRecord({"a": Array(self.VALUES)})})
        reply = Message(pack_content(content), reply_to=Message(RecordDict(), 1, "train"))
        id, _, contents = deflate(reply)
        return id, contents, update_digest(content)

    @staticmethod
    def arrived(id: str, contents: dict[str, bytes]) -> RecordDict:
        """Return the content of a reply as the orchestrator makes it."""
        made = inflate(id, contents, 10**9, hashed=True)
        assert isinstance(made, RecordDict)
        return unpack_content(made)

    def test_is_not_hashed_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        id, contents, expected = self.sent()
        content = self.arrived(id, contents)

        def hashed(run: object) -> str:
            raise AssertionError("a chunk was hashed again")

        monkeypatch.setattr(objects, "_id_of", hashed)
        assert update_digest(content) == expected

    def test_that_was_changed_is_hashed(self) -> None:
        id, contents, expected = self.sent()
        content = self.arrived(id, contents)
        content["arrays"]["a"] = Array(self.VALUES + 1)  # type: ignore[index]
        assert update_digest(content) not in ("", expected)

    def test_that_a_silo_cut_elsewhere_has_the_same_digest(self) -> None:
        _, _, expected = self.sent()
        npy = BytesIO()
        np.save(npy, self.VALUES)
        data = npy.getvalue()
        cut = [ArrayChunk(data[:1_000_000]), ArrayChunk(data[1_000_000:])]
        contents = {chunk.object_id: chunk.deflate() for chunk in cut}
        body = {
            "dtype": "float32",
            "shape": [self.VALUES.size],
            "stype": "numpy.ndarray",
            "arraychunk_ids": [0, 1],
        }
        text = json.dumps(body).encode()
        one = b"Array %s %d\0%s" % (",".join(contents).encode(), len(text), text)
        contents[get_object_id(one)] = one
        array = objects._Inflater(contents, 10**9, hashed=True).inflate(get_object_id(one), 0)
        assert isinstance(array, objects.Pieces)
        assert array.known_ids is None, "what is not ours is not taken for it"
        flat = ArrayRecord()
        flat["float32"] = array
        layout = json.dumps([["a", "float32", [self.VALUES.size]]])
        assert update_digest({"arrays": unpack(flat, layout)}) == expected
