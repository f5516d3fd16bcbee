"""Models that torch's compiler has made (`trainer.compile`): in which mode, which batches they take,
and how long it took.

    MDW-228 a compiler that fails

A shape that was not met before is compiled anew, for many seconds. So the one odd batch at the end
of an epoch is computed as it is written, and whatever has to be compiled is before a round's clock
runs: the seconds of that are told by themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import nn

from conf.errors import DataError
from conf.schema import TrainerConf

OFF: Final = "off"
GRAPHS: Final = ("reduce-overhead", "max-autotune")
"""The modes that record CUDA graphs: one launch for a whole pass of the model."""
WITHOUT_GRAPHS: Final = {
    "reduce-overhead": "default",
    "max-autotune": "max-autotune-no-cudagraphs",
}
TIMES_FOR_GRAPHS: Final = 3
"""Passes until a graph is replayed: one that compiles, one that runs, one that is recorded."""

CACHE_VARIABLE: Final = "TORCHINDUCTOR_CACHE_DIR"
"""Environment: where torch's compiler keeps what it has made."""
CACHE: Final = "compiled"
"""The folder of that in a silo's state."""

_ready: WeakKeyDictionary[nn.Module, set[tuple[object, ...]]] = WeakKeyDictionary()


def keep_in(state: Path, environment: MutableMapping[str, str]) -> None:
    """Have compiled code kept in a silo's state, so that its next process need not compile again.

    What the owner has set stays.
    """
    environment.setdefault(CACHE_VARIABLE, str((state / CACHE).absolute()))


def compile_in_place(model: nn.Module, conf: TrainerConf) -> None:
    """Have torch compile the model when it is first used; its names stay as they are."""
    if conf.compile == OFF:
        return
    mode = conf.compile
    if conf.accumulate > 1:
        # A graph writes its gradients where those of the batch before still are.
        mode = WITHOUT_GRAPHS.get(mode, mode)
    model.compile(mode=mode)


def as_written(wanted: bool, conf: TrainerConf) -> AbstractContextManager[object]:
    """Compute what is inside without the compiler, if `wanted`."""
    # Only since torch 2.6; before, another shape is compiled.
    stance = getattr(torch.compiler, "set_stance", None)
    if not wanted or conf.compile == OFF or stance is None:
        return nullcontext()
    made: AbstractContextManager[object] = stance("force_eager")
    return made


def next_step(conf: TrainerConf) -> None:
    """Let graphs reuse the memory of the step before."""
    if conf.compile in GRAPHS:
        torch.compiler.cudagraph_mark_step_begin()


def made_ready(
    model: nn.Module, conf: TrainerConf, of: tuple[object, ...], use: Callable[[], None]
) -> float:
    """Use a model as a pass will, where that compiles it; return the seconds that it took.

    `of` says what compiled code is for, beside the model: it is used once for each. Raises DataError
    MDW-228 where the compiler fails.
    """
    done = _ready.setdefault(model, set())
    if conf.compile == OFF or of in done:
        return 0.0
    started = time.perf_counter()
    with _told(conf):
        for _ in range(TIMES_FOR_GRAPHS if conf.compile in GRAPHS else 1):
            use()
    done.add(of)
    return time.perf_counter() - started


@contextmanager
def _told(conf: TrainerConf) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not _of_the_compiler(error):
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            "MDW-228",
            f"trainer.compile={conf.compile}: torch's compiler failed: {first[:200]}",
            "Set trainer.compile=off, or let the silo's owner set machine.compile=off; a CPU needs a"
            " C++ compiler, a GPU a C compiler beside torch.",
            {"compile": conf.compile},
        ) from error


def _of_the_compiler(error: BaseException) -> bool:
    modules: list[Any] = [kind.__module__ for kind in type(error).__mro__]
    return any(str(name).startswith(("torch._dynamo", "torch._inductor")) for name in modules)
