"""The benchmark of a GPU runs the first time: in small, on whatever is here."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", FILE)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up.
    import sys

    sys.modules["gpu_benchmark"] = made
    spec.loader.exec_module(made)
    return made


def test_its_small_rows_run_and_are_written_down(gpu: Any, tmp_path: Path) -> None:
    assert gpu.main(["--tiny", "--out", str(tmp_path), "--rows", "base,host"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [line["row"]["name"] for line in lines] == ["base", "host"]
    assert all(line["meadow"] > 0 and line["bare"] > 0 and not line["failed"] for line in lines)
    assert "| host |" in (tmp_path / "table.md").read_text()


def test_a_row_that_fails_costs_that_row_alone(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(row: Any, device: Any) -> Any:
        if row.name == "base":
            raise RuntimeError("no kernel")
        return gpu.Result({"name": row.name, "model": "", "pixels": 0}, ratio=1.0)

    monkeypatch.setattr(gpu, "measured", failing)
    assert gpu.main(["--tiny", "--out", str(tmp_path), "--rows", "base,host"]) == 1
    assert "no kernel" in (tmp_path / "table.md").read_text()


def test_the_gates(gpu: Any) -> None:
    import torch

    def row(name: str, ratio: float, meadow: float, syncs: int = 1) -> Any:
        facts = {"name": name, "model": "resnet50", "pixels": 224}
        return gpu.Result(facts, ratio=ratio, meadow=meadow, syncs=syncs)

    device = torch.device("cuda")
    good = [row("base", 0.98, 1000), row("defaults", 0.99, 800), row("host", 0.91, 950)]
    assert gpu.missed(good, device) == []
    bad = [row("base", 0.96, 1000, 2), row("defaults", 0.99, 799), row("host", 0.89, 950)]
    assert len(gpu.missed(bad, device)) == 4
