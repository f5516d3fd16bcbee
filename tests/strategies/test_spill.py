"""A round's updates on disk: private, read back by columns, and told when there is no room."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest

from conf.files.faults import FileFault
from strategies import spill as spilled
from strategies.spill import FloatLayout, Spill, check_room, clear

LAYOUT = {
    "w": ("float32", (3, 2)),
    "n": ("int64", ()),
    "h": ("float16", (4,)),
    "b": ("float32", (2,)),
    "d": ("float64", (1, 2)),
}


def update(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: np.asarray(rng.normal(size=shape) * 10).astype(dtype)
        for name, (dtype, shape) in LAYOUT.items()
    }


def everything(rows: spilled.Rows) -> dict[str, np.ndarray]:
    """Return all columns by element type."""
    found: dict[str, list[np.ndarray]] = {}
    for block, values in rows.blocks():
        found.setdefault(block.dtype, []).append(values.copy())
    return {dtype: np.concatenate(blocks, axis=1) for dtype, blocks in found.items()}


@pytest.mark.parametrize("columns", [1, 3, 1 << 15])
def test_what_is_read_is_what_was_written_in_the_order_of_the_names(
    columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spilled, "MOST_COLUMNS", columns)
    spill = Spill(tmp_path / "held", FloatLayout(LAYOUT))
    for name, seed in (("c", 3), ("a", 1), ("b", 2)):
        spill.add(name, update(seed))
    assert spill.names == ["a", "b", "c"]
    found = everything(spill.rows([[0], [1], [2]], [1, 1, 1]))
    for row, seed in enumerate((1, 2, 3)):
        flat = spill.layout.flat(update(seed))
        # Halves are numbers of a float32 by now (`strategies.wire.half_types`).
        assert set(flat) == {"float32", "float64"}
        for dtype, values in flat.items():
            np.testing.assert_array_equal(found[dtype][row], values.astype(np.float64))


def test_a_row_of_several_is_their_weighted_mean(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "held", FloatLayout(LAYOUT))
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        spill.add(name, update(seed))
    rows = spill.rows([[0, 2], [1]], [3, 5, 1])
    assert rows.weights.tolist() == [4.0, 5.0]
    found = everything(rows)["float64"]
    one, other = update(1)["d"].reshape(-1), update(3)["d"].reshape(-1)
    np.testing.assert_allclose(found[0], (3 * one + other) / 4, rtol=1e-15)


def test_arrays_come_back_by_name(tmp_path: Path) -> None:
    layout = FloatLayout(LAYOUT)
    named = layout.named(layout.flat(update(7)))
    assert set(named) == {"w", "h", "b", "d"}
    for name, array in named.items():
        np.testing.assert_array_equal(array, update(7)[name])
    assert layout.nbytes == 4 * (8 + 4) + 8 * 2


def test_files_are_their_user_s_alone(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "held", FloatLayout(LAYOUT))
    spill.add("a", update(1))
    (file,) = (tmp_path / "held").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "held").stat().st_mode) == 0o700
    assert file.stat().st_size == spill.layout.nbytes


def test_what_a_killed_process_left_is_gone_with_the_next_round(tmp_path: Path) -> None:
    left = Spill(tmp_path / "held", FloatLayout(LAYOUT))
    left.add("a", update(1))
    spill = Spill(tmp_path / "held", FloatLayout(LAYOUT))
    assert list((tmp_path / "held").iterdir()) == [] and spill.names == []
    clear(tmp_path / "held")
    clear(tmp_path / "held")
    assert not (tmp_path / "held").exists()


def test_a_link_in_its_place_leads_nowhere(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_bytes(b"1")
    (tmp_path / "held").symlink_to(elsewhere)
    spill = Spill(tmp_path / "held", FloatLayout(LAYOUT))
    spill.add("a", update(1))
    assert not (tmp_path / "held").is_symlink()
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]


def test_a_file_that_somebody_cut_is_an_error_and_no_values(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "held", FloatLayout(LAYOUT))
    spill.add("a", update(1))
    (file,) = (tmp_path / "held").iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(FileFault, match="MDW-515"):
        everything(spill.rows([[0]], [1]))


def test_too_little_room_says_what_is_needed_and_what_is_there(tmp_path: Path) -> None:
    check_room(tmp_path / "not" / "there", 3, 10)
    with pytest.raises(FileFault, match=r"MDW-513.*3 updates.*need 3,000,000,000,000.0 MB.*free"):
        check_room(tmp_path / "not" / "there", 3, 10**18)
