"""Under `flwr run` Flower decides what its clients see: without GPUs they are refused, not slow."""

from __future__ import annotations

import pytest
import torch

from conf.compose import compose
from conf.silos import silos
from server.app import _with_gpus


@pytest.mark.parametrize(
    ("there", "overrides", "wanted"),
    [(2, [], 1), (0, [], 0), (2, ["simulation.gpus=0"], 0)],
    ids=["GPUs are hidden", "there are none", "none is meant"],
)
def test_a_silo_is_to_have_a_gpu_where_the_machine_has_some(
    there: int, overrides: list[str], wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    conf = compose(["task=digits", *overrides])
    assert {silo.gpus for silo in _with_gpus(silos(conf), conf)} == {wanted}
