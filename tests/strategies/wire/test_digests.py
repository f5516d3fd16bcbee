"""Both sides take the same digest of the same values, however they were packed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from strategies.wire.digests import arrays_digest


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
