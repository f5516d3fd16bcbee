"""A compiled model is compiled once for training and once for evaluation, and that is told apart."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.utils.data import TensorDataset

from client import compiled, loop
from client.compiled import compile_in_place, keep_in, made_ready
from client.tasks import task_named
from conf.errors import DataError
from conf.schema import DataConf, Silo, TrainerConf
from strategies.wire import protocol

DIGITS = task_named("digits")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A compiler that counts what it compiles, and leaves it as it is."""
    counter = CompileCounter()
    own = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode: own(self, backend=counter))
    torch._dynamo.reset()
    yield counter
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def data() -> TensorDataset:
    few = DIGITS.data(Silo("north", data=DataConf(partition="iid", examples=70))).train
    assert isinstance(few, TensorDataset) and len(few) == 56
    return few


def net() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, 10)
    )


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_an_odd_last_batch_and_further_rounds_compile_nothing_more(
    counted: Any, data: TensorDataset
) -> None:
    conf = TrainerConf(compile="default", batch_size=16, eval_batch_size=24)
    plain = TrainerConf(batch_size=16, eval_batch_size=24)
    eager = net()
    made = loop.prepare(copy.deepcopy(eager), conf)
    seconds = []
    for round in (1, 2, 3):
        done = loop.train(made, data, DIGITS, conf, seed=round, round=round, rounds=3)
        seconds.append(done.metrics[protocol.SECONDS_COMPILING])
        found = loop.evaluate(made, data, DIGITS, conf).sums
        loop.train(eager, data, DIGITS, plain, seed=round, round=round, rounds=3)
        expected = loop.evaluate(eager, data, DIGITS, plain).sums
        assert same(made, eager)
        assert torch.equal(found["loss"], expected["loss"])
    assert counted.frame_count == 2
    # Before the clock, once.
    assert seconds[0] > 0 and seconds[1:] == [0.0, 0.0]
    assert protocol.SECONDS_COMPILING not in loop.train(eager, data, DIGITS, plain, seed=1).metrics


@pytest.mark.parametrize(
    ("asked", "accumulate", "mode"),
    [
        ("default", 1, "default"),
        ("reduce-overhead", 1, "reduce-overhead"),
        ("reduce-overhead", 2, "default"),
        ("max-autotune", 2, "max-autotune-no-cudagraphs"),
    ],
)
def test_graphs_are_not_recorded_where_gradients_are_added_up(
    asked: str, accumulate: int, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode: modes.append(mode))
    compile_in_place(net(), TrainerConf(compile=asked, accumulate=accumulate))
    compile_in_place(net(), TrainerConf(compile="off"))
    assert modes == [mode]


def test_graphs_are_used_until_they_are_recorded_and_a_shape_once() -> None:
    model = net()
    used: list[int] = []
    conf = TrainerConf(compile="reduce-overhead")
    for _ in range(2):
        made_ready(model, conf, ("training", 8), lambda: used.append(1))
    assert len(used) == compiled.TIMES_FOR_GRAPHS
    assert made_ready(model, TrainerConf(), ("training", 9), lambda: used.append(1)) == 0.0
    assert len(used) == compiled.TIMES_FOR_GRAPHS


def test_a_machine_without_a_compiler_is_told_what_to_do(data: TensorDataset) -> None:
    from torch._inductor.exc import InductorError

    def fails() -> None:
        raise InductorError(RuntimeError("No working C++ compiler found"), None)

    conf = TrainerConf(compile="default")
    with pytest.raises(DataError, match=r"MDW-228: trainer.compile=default.*compile=off"):
        made_ready(net(), conf, ("training", 8), fails)

    def own() -> None:
        raise ValueError("the model's")

    with pytest.raises(ValueError, match="the model's"):
        made_ready(net(), conf, ("training", 8), own)


def test_what_was_compiled_is_kept_in_the_silo_s_state_unless_its_owner_says_otherwise(
    tmp_path: Path,
) -> None:
    environment: dict[str, str] = {}
    keep_in(tmp_path, environment)
    assert environment == {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    keep_in(tmp_path / "other", environment)
    assert environment == {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
