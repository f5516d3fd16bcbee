"""How far each update is from its nearest neighbours: by that Krum, Multi-Krum and Bulyan choose.

Blanchard et al. 2017, arXiv 1703.02757, section 4: of n updates, f of which may lie, the score of one
is the sum of the squared distances to the n - f - 2 others that are nearest to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from strategies.combined import Values


def scores(squares: Values, f: int) -> Values:
    """Return the score of each of n updates, from the squares of their distances (n, n)."""
    count = len(squares)
    # In the last steps of Bulyan fewer are left than Krum itself would take.
    nearest = max(1, count - f - 2)
    found = np.zeros(count)
    for one in range(count):
        others = np.sort(np.delete(squares[one], one))
        found[one] = float(others[:nearest].sum()) if count > 1 else 0.0
    return found


def ranked(squares: Values, f: int) -> Sequence[int]:
    """Return the updates by their scores, the lowest first; of equal ones the first by name."""
    ranks: list[int] = np.argsort(scores(squares, f), kind="stable").tolist()
    return ranks


def chosen_in_turn(squares: Values, f: int, count: int) -> Sequence[int]:
    """Return so many updates, each the one that Krum chooses of those that are left, sorted.

    El Mhamdi et al. 2018, arXiv 1802.07927, section 4.
    """
    left = list(range(len(squares)))
    taken = []
    for _ in range(count):
        best = left[ranked(squares[np.ix_(left, left)], f)[0]]
        taken.append(best)
        left.remove(best)
    return sorted(taken)
