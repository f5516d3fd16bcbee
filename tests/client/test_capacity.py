"""What the machine has, as its control groups and limits say it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from client import capacity


def test_a_process_has_no_more_than_the_machine() -> None:
    assert 1 <= capacity.cores() <= (os.cpu_count() or 1)
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**26 < capacity.memory() <= whole


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_group_or_of_one_above_it_counts(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "cgroup"
    base = root / "memory" if version == 1 else root
    name = "memory.limit_in_bytes" if version == 1 else "memory.max"
    own = base / "jobs" / "one"
    own.mkdir(parents=True)
    (own / "cgroup.controllers").write_text("memory")
    (own / name).write_text("max" if version == 2 else str(2**63 - 4096))
    (own.parent / name).write_text(str(100 * 2**20))
    lines = tmp_path / "self"
    lines.write_text("4:memory:/jobs/one\n" if version == 1 else "0::/jobs/one\n")
    monkeypatch.setattr(capacity, "CGROUPS", root)
    monkeypatch.setattr(capacity, "OWN", lines)
    assert capacity.memory() == 100 * 2**20


def test_without_groups_the_machine_s_memory_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "CGROUPS", tmp_path)
    monkeypatch.setattr(capacity, "OWN", tmp_path / "missing")
    assert capacity.memory() > 2**26 and capacity.group_1() is None and capacity.group_2() is None


@pytest.mark.parametrize(("text", "size"), [("1k", 1024), ("8g", 8 * 2**30), ("512m", 2**29)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert capacity.bytes_of(text) == size


@pytest.mark.parametrize(
    ("size", "text"), [(10, "10 bytes"), (1536, "1.5 KiB"), (4e12, "3.64 TiB"), (2**30, "1 GiB")]
)
def test_sizes_are_written_for_people(size: float, text: str) -> None:
    assert capacity.readable(size) == text
