"""What all codecs promise: sizes known beforehand, the same bits twice, nothing lost for good."""

from __future__ import annotations

import numpy as np
import pytest

from conf.schema import VARIANTS
from strategies.compression import codec_of
from strategies.compression.codec import Codec, Seeds, add_kept, parts, size_of
from tests.strategies.compression.models import SHAPES, change, decoded, encoded, there_and_back

CODECS = {
    name: codec
    for name, cls in VARIANTS["compression"].items()
    if (codec := codec_of(cls(name=name))) is not None
}
ALL = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())
SHARE = {"bf16": 0.5, "fp16": 0.5, "int8": 0.27, "int4": 0.15, "topk": 0.03, "randk": 0.03}


def test_each_name_of_the_configuration_has_its_codec_and_none_has_none() -> None:
    assert set(CODECS) == set(VARIANTS["compression"]) - {"none"}
    assert len({type(codec) for codec in CODECS.values()}) == len(CODECS)


@ALL
def test_the_same_change_and_seed_give_the_same_bytes(codec: Codec) -> None:
    once, again = (encoded(codec, change()) for _ in range(2))
    for name, values in once.arrays.items():
        assert values.tobytes() == again.arrays[name].tobytes()


@ALL
def test_a_change_of_nothing_is_nothing(codec: Codec) -> None:
    nothing = np.zeros(size_of(SHAPES), np.float32)
    assert not there_and_back(codec, nothing).any()


@ALL
def test_a_model_without_values_is_encoded(codec: Codec) -> None:
    shapes = {"none": (0,)}
    assert there_and_back(codec, np.zeros(0, np.float32), shapes).size == 0
    assert encoded(codec, np.zeros(0, np.float32), {}).arrays is not None


@ALL
@pytest.mark.parametrize("scale", [1e-38, 1e-12, 1.0, 1e4])
def test_changes_of_any_size_come_back_finite_and_no_larger(codec: Codec, scale: float) -> None:
    row = change(scale=scale / 100)
    back = there_and_back(codec, row)
    assert np.isfinite(back).all()
    assert np.linalg.norm(back) <= 1.1 * np.linalg.norm(row) + 1e-30


@pytest.mark.parametrize(("name", "most"), SHARE.items())
def test_an_update_has_the_share_of_float32_that_is_told(name: str, most: float) -> None:
    shapes = {"a": (1000, 1000), "b": (1000,)}
    codec = CODECS[name]
    sent = encoded(codec, change(shapes), shapes).arrays
    assert sum(values.nbytes for values in sent.values()) <= most * 4 * size_of(shapes)


@pytest.mark.parametrize("name", ["topk", "randk", "lowrank"])
def test_what_is_left_out_and_what_is_sent_are_the_change(name: str) -> None:
    codec = CODECS[name]
    assert codec.remembers
    made = encoded(codec, change())
    back = decoded(codec, made.arrays)
    np.testing.assert_allclose(back + made.memory["residual"], change(), atol=2e-7)
    again = encoded(codec, np.zeros_like(back), memory=made.memory, seeds=Seeds(5, 6))
    left = np.linalg.norm(again.memory["residual"])
    assert left < np.linalg.norm(made.memory["residual"])


@pytest.mark.parametrize("name", ["bf16", "fp16", "int8", "int4"])
def test_what_is_rounded_is_not_remembered(name: str) -> None:
    codec = CODECS[name]
    assert not codec.remembers and not encoded(codec, change()).memory


def test_what_was_kept_of_another_model_is_not_added() -> None:
    row = np.ones(3, np.float32)
    add_kept(row, {"residual": np.ones(4, np.float32)})
    add_kept(row, {"residual": np.ones(3)})
    add_kept(row, {})
    assert row.tolist() == [1, 1, 1]
    add_kept(row, {"residual": np.ones(3, np.float32)})
    assert row.tolist() == [2, 2, 2]


def test_the_parts_of_a_row_follow_each_other() -> None:
    assert list(parts({"a": (2, 3), "b": (), "c": (0,)})) == [
        ("a", slice(0, 6)),
        ("b", slice(6, 7)),
        ("c", slice(7, 7)),
    ]
