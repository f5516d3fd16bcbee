"""What a run asks for and a silo's owner sets is what a silo computes in, and everybody is told."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from conf.errors import MeadowError
from server.run.finished import FinishedRun
from server.simulation import simulate

TINY = [
    "task=digits",
    "data.examples=60",
    "data.partition=iid",
    "federation.size=2",
    "run.rounds=1",
    "model=mlp",
    "tracking=off",
    "simulation=pool",
    "simulation.workers=0",
]


def run(folder: Path, *overrides: str) -> FinishedRun:
    return simulate([*TINY, *overrides, f"run.output={folder}"])


def digest(finished: FinishedRun) -> str:
    found = hashlib.sha256()
    for values in finished.model().state_dict().values():
        found.update(values.numpy().tobytes())
    return found.hexdigest()


def test_on_a_cpu_auto_and_tf32_give_the_bits_of_fp32(tmp_path: Path) -> None:
    made = {
        precision: digest(run(tmp_path, f"trainer.precision={precision}", f"run.name={precision}"))
        for precision in ("auto", "tf32", "fp32", "bf16")
    }
    assert made["auto"] == made["tf32"] == made["fp32"] != made["bf16"]


def test_the_silo_s_own_precision_is_used_and_told_in_record_report_and_card(
    tmp_path: Path,
) -> None:
    own = "federation.silos={north:{machine:{precision:bf16}},south:{}}"
    finished = run(tmp_path, own, "run.rounds=2")
    told = finished.result.software
    assert told["north"]["device"] == told["south"]["device"] == "cpu"
    assert (told["north"]["precision"], told["south"]["precision"]) == ("bf16", "fp32")
    assert told["south"]["deterministic"] == "true" and "compiled" not in told["south"]
    first, second = finished.rounds
    assert first.software["north"]["precision"] == "bf16" and second.software == {}
    pages = [finished.folder / name for name in ("report.html", "model/card.md")]
    for page in pages:
        said = page.read_text()
        assert "bf16" in said and "same bits are not promised" in said, page


def test_a_precision_that_the_algorithm_refuses_is_refused_at_the_silo(tmp_path: Path) -> None:
    own = "federation.silos={north:{machine:{precision:fp16}},south:{}}"
    with pytest.raises(MeadowError, match=r"MDW-363"):
        run(tmp_path, own, "strategy=scaffold", "trainer.momentum=0")
