"""A rule over all updates of a round as a strategy: what it holds, refuses, keeps and leaves behind."""

from __future__ import annotations

import gc
import logging
import resource
import shutil
import subprocess
import sys
import tempfile
import textwrap
import tracemalloc
import weakref
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message

from conf.compose import compose
from conf.errors import ConfigError, WireError
from conf.files.faults import FileFault
from server.round.dry_aggregation import dry_aggregation
from strategies import build_strategy
from strategies import spill as spilled
from strategies.bulyan import Bulyan
from strategies.krum import Krum
from strategies.median import Median
from strategies.wire.half_types import as_sent, numbers, widened
from strategies.wire.objects import Pieces, view
from tests.strategies.test_robust_rules import MAKERS, Named

ROOT = Path(__file__).parents[2]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made in this test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def asked(strategy: Any, grid: Any, model: ArrayRecord, round: int = 1) -> list[Message]:
    return list(strategy.configure_train(round, model, ConfigRecord(), grid))


@pytest.mark.parametrize("rule", MAKERS)
def test_flowers_own_loop_trains_by_every_rule_and_nothing_is_left(
    rule: str, make_grid: Any, model: ArrayRecord, temporary: Path
) -> None:
    result = MAKERS[rule](f=1).start(make_grid(7), model, num_rounds=2).arrays
    assert list(result) == list(model)
    assert [a.dtype for a in result.values()] == [a.dtype for a in model.values()]
    assert not np.array_equal(result["weight"].numpy(), model["weight"].numpy())
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("rule", MAKERS)
def test_halves_are_compared_as_numbers_and_come_back_as_they_were_sent(
    rule: str, make_grid: Any, half_model: ArrayRecord, temporary: Path
) -> None:
    grid, strategy = make_grid(7), MAKERS[rule](f=1)
    replies = grid.send_and_receive(asked(strategy, grid, half_model))
    arrays, _ = strategy.aggregate_train(1, replies)
    assert arrays is not None
    assert {n: a.dtype for n, a in arrays.items()} == {n: a.dtype for n, a in half_model.items()}
    # The same model of float32, whose rows are the same numbers.
    single, wide = MAKERS[rule](f=1), widened(half_model)
    asked(single, grid, wide)
    for reply in replies:
        reply.content["arrays"] = widened(reply.content["arrays"])
    expected, _ = single.aggregate_train(1, replies)
    assert expected is not None
    for name, array in arrays.items():
        assert view(array) == view(as_sent(numbers(expected[name]), half_model[name])), name


def test_counters_keep_the_largest_and_personal_layers_stay_what_they_were(
    make_grid: Any, model: ArrayRecord
) -> None:
    strategy = Median(f=1)
    strategy.keeps = ("bias",)
    grid = make_grid(3)
    replies = grid.send_and_receive(asked(strategy, grid, model))
    for reply in replies:
        kept = reply.content["arrays"]
        reply.content["arrays"] = ArrayRecord({n: kept[n] for n in kept if n != "bias"})
    counts = [int(r.content["arrays"]["bn.num_batches_tracked"].numpy()) for r in replies]
    arrays, metrics = strategy.aggregate_train(1, replies)
    assert arrays is not None and metrics is not None
    assert list(arrays) == list(model)
    assert int(arrays["bn.num_batches_tracked"].numpy()) == max(counts)
    np.testing.assert_array_equal(arrays["bias"].numpy(), model["bias"].numpy())
    # Everybody counts the same, whatever they say of their examples.
    assert metrics["num-examples"] == 3


def test_each_reply_is_freed_before_the_next_is_asked_for(
    make_grid: Any, model: ArrayRecord
) -> None:
    grid, strategy = make_grid(5), Krum(f=1)
    messages = asked(strategy, grid, model)

    def arriving() -> Iterator[Message]:
        before: weakref.ref[Message] | None = None
        for message in messages:
            reply = grid.reply(message)
            assert before is None or before() is None
            before = weakref.ref(reply)
            yield reply
            del reply

    gc.disable()  # a reply must go when it is dropped, not when the collector comes by
    try:
        assert strategy.aggregate_train(1, arriving())[0] is not None
    finally:
        gc.enable()


def test_a_reply_that_does_not_fit_costs_its_silo_alone(make_grid: Any, model: ArrayRecord) -> None:
    strategy, grid = Median(f=1), make_grid(6)
    replies = grid.send_and_receive(asked(strategy, grid, model))
    nan = np.full((4, 3), np.nan, np.float32)
    replies[0].content["arrays"]["weight"] = Array(nan)
    replies[1].content["arrays"]["weight"] = Array(np.zeros((3, 4), np.float32))
    replies[2].content["arrays"]["bias"] = Pieces("bfloat16", (3,), [memoryview(bytes(6))])
    named = Named([(name, reply) for name, reply in zip("abcdef", replies, strict=True)])
    arrays, _ = strategy.aggregate_train(1, named)
    assert named.refused == {"a": "MDW-661", "b": "MDW-660", "c": "MDW-660"}
    good = Median(f=1)
    asked(good, grid, model)
    alone, _ = good.aggregate_train(1, replies[3:])
    assert arrays is not None and alone is not None
    assert arrays["weight"].numpy().tobytes() == alone["weight"].numpy().tobytes()
    assert set(strategy.shares) == {"d", "e", "f"}
    with pytest.raises(WireError, match="MDW-660"):
        # Flower's loop can't take one out.
        strategy.aggregate_train(1, replies[1:])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda r: r.content["metrics"].pop("num-examples"), "MDW-665"),
        (lambda r: r.content["metrics"].update({"num-examples": 0}), "MDW-663"),
        (lambda r: r.content.pop("arrays"), "MDW-665"),
        (
            lambda r: r.content["arrays"].update({"bias": Array(np.full(3, 1e30, np.float32))}),
            "MDW-662",
        ),
    ],
)
def test_what_can_not_be_used_is_a_clear_error(
    change: Any, code: str, make_grid: Any, model: ArrayRecord
) -> None:
    strategy, grid = MAKERS["geometric_median"](f=1), make_grid(3)
    strategy.weighting = "examples"
    replies = grid.send_and_receive(asked(strategy, grid, model))
    change(replies[1])
    with pytest.raises(WireError) as caught:
        strategy.aggregate_train(1, replies)
    assert caught.value.code == code


def test_too_few_leave_the_model_as_it_is_and_say_so(
    make_grid: Any, model: ArrayRecord, caplog: pytest.LogCaptureFixture
) -> None:
    strategy, grid = Krum(f=1), make_grid(5)
    messages = asked(strategy, grid, model)
    replies = [grid.reply(message) for message in messages[1:]]
    failed = Message(Error(0, "out of memory"), reply_to=messages[0])
    with caplog.at_level(logging.WARNING):
        assert strategy.aggregate_train(1, [failed, *replies]) == (None, None)
    assert "krum with f=1 needs 5 updates and has 4" in caplog.text
    assert strategy.shares == {}


def test_a_cohort_too_small_is_told_before_anybody_trains(
    make_grid: Any, model: ArrayRecord
) -> None:
    with pytest.raises(ConfigError, match=r"MDW-105.*bulyan strategy.f=1 needs 7"):
        asked(Bulyan(f=1), make_grid(6), model)


def test_too_little_room_is_told_before_anybody_trains(
    make_grid: Any, model: ArrayRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = Median(f=1)
    strategy.begin(tmp_path / "run" / "updates", 0)
    # 18 floats of 4 bytes each, three times.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 3 * 72 - 1))
    with pytest.raises(FileFault, match=r"MDW-513.*3 updates"):
        asked(strategy, make_grid(3), model)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 3 * 72))
    assert len(asked(strategy, make_grid(3), model)) == 3


def test_a_disk_that_fails_in_the_round_is_told_and_nothing_is_left(
    make_grid: Any, tmp_path: Path
) -> None:
    big = ArrayRecord({"w": Array(np.zeros(2_000_000, np.float32))})
    strategy, grid = Median(f=1), make_grid(3)
    strategy.begin(tmp_path / "updates", 0)
    replies = grid.send_and_receive(asked(strategy, grid, big))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, hard))
    try:
        with pytest.raises(FileFault, match="MDW-533"):
            strategy.aggregate_train(1, replies)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "updates").exists()
    assert strategy.aggregate_train(1, replies)[0] is not None


@pytest.mark.parametrize("rule", MAKERS)
def test_a_dry_round_of_a_large_model_costs_no_disk(
    rule: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing may be full where temporary files lie, which is another disk than the run's."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 100_000))
    big = ArrayRecord({"w": Array(np.zeros((1000, 500), np.float32)), "b": Array(np.ones(3))})
    strategy = build_strategy(compose([f"strategy={rule}", "federation.size=9"]).strategy)
    dry_aggregation(strategy, big, 9)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("rule", MAKERS)
def test_memory_does_not_grow_with_the_cohort(rule: str, make_grid: Any) -> None:
    big = ArrayRecord({f"w{i}": Array(np.zeros(60_000, np.float32)) for i in range(5)})

    def peak(silos: int) -> int:
        grid, strategy = make_grid(silos), MAKERS[rule](f=1)
        messages = asked(strategy, grid, big)
        tracemalloc.start()
        strategy.aggregate_train(1, (grid.reply(message) for message in messages))
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # Eight more updates are 9.6 MB; eight more rows of a block, in float64 and sorted beside, 8.
    blocks = 8 * spilled.MOST_COLUMNS * 8
    assert peak(16) - peak(8) < 4 * blocks + 500_000


MANY = """
import sys
sys.path.insert(0, {root!r})
import resource
import shutil
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
import numpy as np
from flwr.supercore.task_identity import TaskIdentity
from pathlib import Path
from server.round.imagined_grid import ImaginedGrid
from tests.strategies.test_robust_rules import MAKERS
TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
strategy = MAKERS[{rule!r}](f=2)
strategy.begin(Path({folder!r}), 0)
values = np.random.default_rng(0).normal(size=2_000_000).astype(np.float32)
sent = ArrayRecord({{"w": Array(values)}})
messages = list(strategy.configure_train(1, sent, ConfigRecord(), ImaginedGrid(50)))
def reply(at, message):
    arrays = ArrayRecord({{"w": Array(values + np.float32(at))}})
    content = RecordDict({{"arrays": arrays, "metrics": MetricRecord({{"num-examples": 1}})}})
    return Message(content, reply_to=message)
reply(0, messages[0])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made, _ = strategy.aggregate_train(1, (reply(at, m) for at, m in enumerate(messages)))
assert made is not None and not Path({folder!r}).exists()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("rule", MAKERS)
def test_fifty_silos_of_8_mb_take_the_memory_of_blocks(rule: str, tmp_path: Path) -> None:
    """400 MB on disk; in memory the blocks of 50 rows, sorted beside, the model that is made and
    the one that was sent.
    """
    code = textwrap.dedent(MANY).format(root=str(ROOT), rule=rule, folder=str(tmp_path / "held"))
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    grown = int(done.stdout.split()[-1]) * 1024
    print(f"{rule}: {grown / 1e6:.0f} MB")
    assert grown < 120e6
