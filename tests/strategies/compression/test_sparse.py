"""Few values of a change: the right ones, at places that nobody can lie about."""

from __future__ import annotations

import numpy as np
import pytest

from strategies.compression.codec import Seeds, size_of
from strategies.compression.sparse import PLACES, VALUES, RandK, TopK, drawn_places
from tests.strategies.compression.models import SHAPES, change, decoded, encoded

SIZE = size_of(SHAPES)


def test_topk_sends_the_largest_values_exactly() -> None:
    row = change()
    codec = TopK(0.01)
    sent = encoded(codec, row).arrays
    count = codec.count(SIZE)
    least = np.sort(np.abs(row))[-count]
    assert np.abs(sent[VALUES]).min() == least and len(sent[VALUES]) == count
    back = decoded(codec, sent)
    assert (back[sent[PLACES]] == row[sent[PLACES]]).all()
    assert np.count_nonzero(back) == count


def test_of_values_as_large_as_each_other_the_first_are_sent() -> None:
    shapes = {"row": (100,)}
    sent = encoded(TopK(0.05), np.ones(100, np.float32), shapes).arrays
    assert sent[PLACES].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("places", [[1, 1, 2], [2, 1, 3], [0, 1, 300], [0, 1, 2**32 - 1]])
def test_places_that_can_not_be_are_refused(places: list[int]) -> None:
    shapes = {"row": (300,)}
    arrays = {VALUES: np.ones(3, np.float32), PLACES: np.array(places, np.uint32)}
    with pytest.raises(ValueError, match="place"):
        decoded(TopK(0.01), arrays, shapes)


def test_places_are_read_without_a_sum_that_could_overflow() -> None:
    shapes = {"row": (300,)}
    arrays = {VALUES: np.ones(3, np.float32), PLACES: np.array([0, 150, 299], np.uint32)}
    assert np.flatnonzero(decoded(TopK(0.01), arrays, shapes)).tolist() == [0, 150, 299]


def test_randk_sends_no_places_and_draws_them_anew_each_round() -> None:
    codec = RandK(0.01)
    row = change() + np.float32(1)
    first = encoded(codec, row, seeds=Seeds(1, 10)).arrays
    assert list(first) == [VALUES]
    back = decoded(codec, first, shared=10)
    at = np.flatnonzero(back)
    assert at.tolist() == drawn_places(SIZE, codec.count(SIZE), 10).tolist()
    assert (back[at] == row[at]).all()
    other = np.flatnonzero(
        decoded(codec, encoded(codec, row, seeds=Seeds(1, 11)).arrays, shared=11)
    )
    assert len(set(at.tolist()) & set(other.tolist())) < len(at) / 4


def test_the_places_of_randk_are_the_same_in_any_release_of_numpy() -> None:
    # Both sides draw them, each with the numpy that it has.
    assert drawn_places(103, 4, 7).tolist() == [9, 45, 52, 98]


@pytest.mark.parametrize(("size", "count"), [(1, 1), (10, 10), (11, 3), (1000, 7), (0, 0)])
def test_drawn_places_are_in_order_and_each_in_its_stretch(size: int, count: int) -> None:
    places = drawn_places(size, count, 3)
    assert len(places) == count
    for number, place in enumerate(places.tolist()):
        assert number * (size // count) <= place < size
    assert (np.diff(places) > 0).all()


def test_every_place_comes_up() -> None:
    seen = {place for seed in range(400) for place in drawn_places(50, 5, seed).tolist()}
    assert seen == set(range(50))


def test_a_model_of_two_values_sends_one() -> None:
    assert TopK(0.01).count(2) == 1 and TopK(0.01).count(0) == 0 and TopK(0.5).count(1) == 1
