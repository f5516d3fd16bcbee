"""Lines are told apart without their hue, axes neither flatten nor exaggerate, labels do not overlap."""

from __future__ import annotations

from itertools import pairwise

import pytest

from server.report.drawing import LABEL_GAP, limits, line_style, new_axes, spread, svg
from server.report.overview import MOST_LINES


def test_no_two_silos_lines_differ_by_their_hue_alone() -> None:
    styles = [line_style(place) for place in range(MOST_LINES)]
    assert len({(style.dashes, style.marker) for style in styles}) == MOST_LINES
    assert styles[0].dash_array == "" and styles[1].dash_array != ""


@pytest.mark.parametrize(
    ("values", "share", "wanted"),
    [
        ([0.3, 0.95], True, (0.0, 1.0)),
        ([0.93, 0.97], True, (0.9, 1.0)),
        ([0.01, 0.13], True, (0.0, 0.2)),
        ([0.1, 2.0], False, (0.0, 2.114)),
        ([-1.0, 1.0], True, (-1.12, 1.12)),
        ([3.0, 3.0], False, (2.85, 3.15)),
        ([0.0], False, (-0.5, 0.5)),
        ([], True, (0.0, 1.0)),
    ],
)
def test_an_axis_shows_what_happened_without_exaggerating_it(
    values: list[float], share: bool, wanted: tuple[float, float]
) -> None:
    assert limits(values, share=share) == pytest.approx(wanted)


@pytest.mark.parametrize("heights", [[0.5] * 15, [0.0, 0.01, 0.99, 1.0], [0.97, 0.98, 0.99], []])
def test_numbers_at_the_ends_of_lines_do_not_overlap(heights: list[float]) -> None:
    moved = spread(heights, LABEL_GAP)
    for before, after in pairwise(moved):
        assert after - before >= LABEL_GAP - 1e-9
    assert all(height <= 1 for height in moved)


def test_a_number_that_has_room_stays_at_its_line_s_height() -> None:
    assert spread([0.1, 0.5, 0.9], LABEL_GAP) == [0.1, 0.5, 0.9]


def test_a_picture_takes_the_page_s_colours_and_is_the_same_each_time() -> None:
    def drawn() -> str:
        figure, axes = new_axes()
        axes.plot([1, 2], [1, 2], color="#010203")
        return svg(figure, "a")

    assert "var(--ink)" in drawn() and "#010203" not in drawn()
    assert drawn() == drawn()
