"""Objects that arrive in parts: no hole, no overlap, no more memory than allowed, and the digest judges the whole."""

from __future__ import annotations

import hashlib

import pytest

from conf.errors import WireError
from server.orchestrator.partial_objects import AT_ONCE, PartialObjects

CONTENT = bytes(range(200))
ID = hashlib.sha256(CONTENT).hexdigest()


def code(error: pytest.ExceptionInfo[WireError]) -> str:
    return error.value.code


def test_parts_one_after_the_other_make_the_object() -> None:
    partial = PartialObjects(1000)
    assert partial.add(1, ID, 200, 0, CONTENT[:80]) is None
    assert partial.arrived(1, ID) == 80
    assert partial.add(1, ID, 200, 80, CONTENT[80:150]) is None
    assert partial.add(1, ID, 200, 150, CONTENT[150:]) == CONTENT
    assert len(partial) == 0


def test_an_object_in_one_part_is_returned_at_once() -> None:
    assert PartialObjects(1000).add(1, ID, 200, 0, CONTENT) == CONTENT


def test_a_range_that_overlaps_adds_what_it_has_beyond_and_changes_nothing() -> None:
    partial = PartialObjects(1000)
    partial.add(1, ID, 200, 0, CONTENT[:100])
    assert partial.add(1, ID, 200, 20, b"x" * 80) is None
    assert partial.arrived(1, ID) == 100, "an answer that was lost makes its node send it again"
    assert partial.add(1, ID, 200, 20, b"x" * 80 + CONTENT[100:]) == CONTENT


def test_a_range_behind_a_hole_adds_nothing() -> None:
    partial = PartialObjects(1000)
    partial.add(1, ID, 200, 0, CONTENT[:100])
    assert partial.add(1, ID, 200, 101, CONTENT[101:]) is None
    assert partial.arrived(1, ID) == 100


@pytest.mark.parametrize(
    ("size", "start", "length"),
    [(200, 150, 51), (200, -1, 10), (0, 0, 0), (-5, 0, 1), (1001, 0, 10), (2**62, 0, 10)],
)
def test_a_range_that_does_not_lie_in_an_object_is_refused_and_takes_no_memory(
    size: int, start: int, length: int
) -> None:
    partial = PartialObjects(1000)
    with pytest.raises(WireError) as error:
        partial.add(1, ID, size, start, b"y" * length)
    assert code(error) == "MDW-650" and len(partial) == 0


def test_an_object_that_changes_its_size_is_refused() -> None:
    partial = PartialObjects(1000)
    partial.add(1, ID, 200, 0, CONTENT[:100])
    with pytest.raises(WireError) as error:
        partial.add(1, ID, 300, 100, b"y" * 10)
    assert code(error) == "MDW-650"


def test_a_digest_that_is_wrong_after_the_last_range_costs_the_whole_object() -> None:
    partial = PartialObjects(1000)
    partial.add(1, ID, 200, 0, b"y" + CONTENT[1:100])
    with pytest.raises(WireError) as error:
        partial.add(1, ID, 200, 100, CONTENT[100:])
    assert code(error) == "MDW-651"
    assert partial.arrived(1, ID) == 0 and len(partial) == 0
    with pytest.raises(WireError):
        partial.add(1, ID, 200, 0, b"y" * 200)


def test_another_node_s_parts_are_nothing_to_a_node() -> None:
    partial = PartialObjects(1000)
    partial.add(1, ID, 200, 0, CONTENT[:199])
    assert partial.arrived(2, ID) == 0
    assert partial.add(2, ID, 200, 199, CONTENT[199:]) is None, "it can't complete what it lacks"
    assert partial.arrived(2, ID) == 0 and partial.arrived(1, ID) == 199


def test_a_node_that_begins_objects_and_completes_none_holds_a_few_of_them() -> None:
    partial = PartialObjects(1000)
    for number in range(1000):
        partial.add(1, f"{number:064x}", 1000, 0, b"z" * 999)
    assert len(partial) == AT_ONCE * 999


def test_all_nodes_together_hold_no_more_than_is_allowed_and_the_oldest_goes() -> None:
    partial = PartialObjects(1000, all_bytes=5000)
    for node in range(100):
        partial.add(node, ID, 200, 0, CONTENT[:150])
    assert len(partial) <= 5000
    assert partial.arrived(0, ID) == 0 and partial.arrived(99, ID) == 150


def test_what_a_node_has_sent_can_be_forgotten() -> None:
    partial = PartialObjects(1000)
    partial.add(1, ID, 200, 0, CONTENT[:10])
    partial.add(2, ID, 200, 0, CONTENT[:10])
    partial.drop(1)
    assert (partial.arrived(1, ID), partial.arrived(2, ID)) == (0, 10)
    partial.clear()
    assert len(partial) == 0
