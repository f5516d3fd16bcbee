"""What silos say that they run travels as short lines, and what differs of what bits depend on is found."""

from __future__ import annotations

import pytest

from strategies.wire.software import LONGEST, MOST, Software, by_device, computed_on, differences

OURS = Software(
    "3.11.7", "2.9.0", "12.8", "570.1", "AVX2", "x86_64", "0.1.0", "1.42.0", "a" * 64, "b" * 64
)


def test_what_is_sent_is_read_and_what_is_not_known_is_left_out() -> None:
    assert Software.from_record(OURS.to_record()) == OURS
    assert Software.from_record({"python": "3.13.0", "later": "1"}) == Software("3.13.0")
    assert Software("3.13.0").to_json() == {"python": "3.13.0"}
    assert len(OURS.to_record()) <= MOST and len(OURS.code) <= LONGEST


@pytest.mark.parametrize("value", ["x" * 101, "a\nb", "é", 3, b"3", None])
def test_anything_but_a_short_line_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="a value is no line"):
        Software.from_record({"python": value})


def test_only_what_the_bits_depend_on_is_a_difference() -> None:
    north = {"torch": "2.9.0", "python": "3.11.7", "cpu": "AVX2"}
    south = {"torch": "2.9.0", "python": "3.13.0", "cpu": "AVX2"}
    assert differences({"north": north, "south": south}) == {}
    east = {"torch": "2.8.0", "cpu": "AVX2", "cuda": "12.8"}
    assert differences({"north": north, "south": south, "east": east}) == {
        "torch": {"2.8.0": ["east"], "2.9.0": ["north", "south"]},
        "cuda": {"12.8": ["east"], "": ["north", "south"]},
    }


def test_where_silos_trained_is_told_by_device_precision_and_card() -> None:
    gpu = {"device": "cuda:0", "precision": "bf16", "card": "NVIDIA H100"}
    cpu = {"device": "cpu", "precision": "fp32"}
    assert computed_on(gpu) == "cuda:0 bf16" and computed_on(cpu) == "cpu fp32"
    assert computed_on({"torch": "2.9.0"}) == ""
    assert by_device({"south": gpu, "east": cpu, "north": gpu, "old": {}}) == {
        "cuda:0 bf16 (NVIDIA H100)": ["north", "south"],
        "cpu fp32": ["east"],
    }


def test_another_card_or_precision_takes_the_promise_of_the_same_bits_back() -> None:
    north = {"precision": "bf16", "card": "NVIDIA H100", "device": "cuda:0"}
    south = {"precision": "fp16", "card": "Tesla T4", "device": "cuda:1"}
    assert set(differences({"north": north, "south": south})) == {"precision", "card"}
