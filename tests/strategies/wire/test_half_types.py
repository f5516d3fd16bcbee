"""Numbers of two bytes: every value there and back, rounded once, and never taken for counters."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord

from strategies.wire import protocol
from strategies.wire.half_types import BITS, Numbers, as_sent, numbers, rounded, tagged, widened
from strategies.wire.objects import BFLOAT16, as_declared, view

ALL_BITS = np.arange(2**16, dtype=np.uint16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_value_of_a_half_is_there_as_a_number_and_back_again(dtype: torch.dtype) -> None:
    halves = torch.from_numpy(ALL_BITS.view(np.int16)).view(dtype)
    array = protocol.to_record({"w": halves})["w"]
    assert array.dtype == str(dtype).removeprefix("torch.")
    found = numbers(array)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, halves.float().numpy())
    again = rounded(found, array.dtype).view(np.uint16)
    real = ~np.isnan(found)
    np.testing.assert_array_equal(again[real], ALL_BITS[real])
    assert np.isnan(numbers(as_declared(array.dtype, rounded(found, array.dtype)))[~real]).all()


def test_rounding_of_singles_is_that_of_torch() -> None:
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    finite = drawn[np.isfinite(drawn)]
    wanted = torch.from_numpy(finite).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(numbers(as_declared(BFLOAT16, rounded(finite, BFLOAT16))), wanted)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_doubles_are_rounded_once(sign: float) -> None:
    # A trifle above the middle of two neighbours: a float32 between would be the middle itself, and
    # be rounded to the even neighbour below.
    middle = 1.0 + 2.0**-8
    values = sign * np.array([middle, middle + 2.0**-40, middle - 2.0**-40, middle + 2.0**-8 * 2])
    made = numbers(as_declared(BFLOAT16, rounded(values, BFLOAT16)))
    assert made.tolist() == [sign * one for one in (1.0, 1.0 + 2.0**-7, 1.0, 1.0 + 2.0**-6)]


def test_the_nearest_half_is_chosen_of_any_double() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=500) * 2.0 ** rng.integers(-140, 120, 500)
    made = numbers(as_declared(BFLOAT16, rounded(values, BFLOAT16)))
    bits = rounded(values, BFLOAT16)
    for value, near, at in zip(values, made, bits, strict=True):
        found = abs(Fraction(float(near)) - Fraction(float(value)))
        for other in (int(at) - 1, int(at) + 1):
            beside = as_declared(BFLOAT16, np.array([other & 0xFFFF], np.uint16))
            distance = float(numbers(beside)[0])
            if np.isfinite(distance):
                assert found <= abs(Fraction(distance) - Fraction(float(value)))


def test_what_lies_as_bits_can_t_be_summed_by_mistake() -> None:
    array = as_declared(BFLOAT16, np.array([0x3F80, 0x4000], np.uint16))
    lying = tagged(array)
    assert lying.dtype == BITS and lying.dtype.kind == "V"
    with pytest.raises(TypeError):
        lying + lying


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_shapes_stay(shape: tuple[int, ...]) -> None:
    tensor = torch.ones(shape, dtype=torch.bfloat16)
    array = protocol.to_record({"w": tensor})["w"]
    assert tuple(array.shape) == shape and numbers(array).shape == shape
    assert view(as_sent(numbers(array).astype(np.float64), array)) == view(array)
    back = protocol.to_state(ArrayRecord({"w": array}))["w"]
    assert back.dtype == torch.bfloat16 and torch.equal(back, tensor)


def test_a_record_without_halves_is_left_alone_and_one_with_them_keeps_its_other_arrays() -> None:
    plain = ArrayRecord({"w": Array(np.ones(3, np.float32)), "n": Array(np.array(4))})
    assert widened(plain) is plain
    mixed = ArrayRecord(dict(plain))
    mixed["h"] = as_declared(BFLOAT16, np.array([0x3F80], np.uint16))
    wide = widened(mixed)
    assert list(wide) == ["w", "n", "h"] and wide["h"].dtype == "float32"
    assert wide["w"] is mixed["w"]
    assert dict(Numbers(mixed))["h"].tolist() == [1.0] and len(Numbers(mixed)) == 3


def test_other_floats_are_sent_in_the_type_in_which_they_came() -> None:
    sent = Array(np.zeros(2, np.float32))
    assert as_sent(np.array([1.0, 2.0]), sent).dtype == "float32"
    assert as_sent(np.array([1.0, 2.0], np.float32), sent).dtype == "float32"
    assert as_sent(np.array([1, 2]), Array(np.zeros(2, np.int64))).dtype == "int64"
