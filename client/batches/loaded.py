"""Batches of sets that give one example at a time, through torch's DataLoader.

What a set draws of an example (an augmentation, by torch, numpy or Python) is drawn from the run's
seed, the pass and the example's index: the same with any number of workers. Workers are processes
of the fork server, since a process with a GPU and threads must not be copied, and are kept between
rounds with what they have loaded.

    MDW-229 a worker that ended
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Final, cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from client.batches.order import Order
from client.randomness import aside, mixed, seed_all
from conf.errors import DataError, MeadowError
from conf.targets import known

log = logging.getLogger(__name__)

KEPT: Final = 2
"""Sets whose workers are kept: one that trains and one that is evaluated."""
AHEAD: Final = 4
"""Batches that each worker makes ahead."""
FORK_SERVER: Final = "forkserver"
FORK: Final = "fork"

Key = tuple[int, int]
"""The seed of a pass, and the index of an example."""


@dataclass(frozen=True)
class _Of:
    """What a loader is of."""

    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Any] | None
    workers: int
    pin: bool

    def same(self, other: _Of) -> bool:
        """Return whether a loader of this is one of the other."""
        mine = (self.collate, self.workers, self.pin)
        return self.dataset is other.dataset and mine == (other.collate, other.workers, other.pin)


class Loaded:
    """One pass after another over a set."""

    def __init__(
        self,
        dataset: Dataset[Any],
        order: Order,
        collate: Callable[[list[Any]], Any] | None,
        *,
        workers: int,
        pin: bool,
    ) -> None:
        self._order = order
        self._of = _Of(dataset, collate, workers, pin)

    def __iter__(self) -> Iterator[Any]:
        if not self._of.workers:
            yield from _here(_made(self._of), self._order)
            return
        loader = _kept(self._of)
        try:
            yield from _by_workers(loader, self._order)
        except GeneratorExit:
            # What was made ahead in vain is left out by torch when the next pass begins.
            raise
        except BaseException as error:
            drop(loader)
            if _is_end_of_worker(error):
                raise _ended(error) from error
            raise


class Keys:
    """Lists of keys as a DataLoader takes them, of whichever order it is given."""

    order: Order

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[list[Key]]:
        for part in self.order:
            seed = self.order.pass_seed
            yield [(seed, index) for index in part.tolist()]


class _Outside:
    """The code from outside this tree that this process knows, in a worker imported when it is read
    there: its modules have names that nothing else could import.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _import_known, (known.exported(),)


def _import_known(listed: str) -> None:
    for entry in known.from_text(listed):
        known.add(entry)
        # What this set is not made of may be missing.
        with suppress(MeadowError):
            known.loaded(entry.group, entry.name, entry.code)


class Drawn(Dataset[Any]):
    """A set whose examples are drawn from their keys."""

    def __init__(self, inner: Dataset[Any]) -> None:
        self.inner = inner

    def __reduce__(self) -> tuple[Any, ...]:
        # In this order: the classes of a set from outside this tree are there before it is read.
        return type(self)._sent, (_Outside(), self.inner)

    @classmethod
    def _sent(cls, _: object, inner: Dataset[Any]) -> Drawn:
        return cls(inner)

    def __getitem__(self, key: Key) -> Any:
        seed, index = key
        seed_all(mixed(seed, index))
        return self.inner[index]


class DrawnByBatch(Drawn):
    """The same of a set that gives whole batches: drawn from the key of the first example."""

    def __getitems__(self, keys: list[Key]) -> Any:
        seed_all(mixed(*keys[0]))
        inner: Any = self.inner
        return inner.__getitems__([index for _, index in keys])


def _made(of: _Of, context: str | None = None) -> DataLoader[Any]:
    whole = callable(getattr(of.dataset, "__getitems__", None))
    return DataLoader(
        DrawnByBatch(of.dataset) if whole else Drawn(of.dataset),
        batch_sampler=cast("Sampler[list[Key]]", Keys()),
        collate_fn=of.collate,
        num_workers=of.workers,
        pin_memory=of.pin,
        persistent_workers=of.workers > 0,
        prefetch_factor=AHEAD if of.workers else None,
        multiprocessing_context=context,
        worker_init_fn=_end_with_parent if context == FORK_SERVER else None,
        # Of the workers' first seeds, which nothing is drawn from; the host's own stay untouched.
        generator=torch.Generator(),
    )


def _here(loader: DataLoader[Any], order: Order) -> Iterator[Any]:
    """Yield the batches made in this process, whose generators are the model's."""
    _keys(loader).order = order
    batches = iter(loader)
    while True:
        with aside():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _by_workers(loader: DataLoader[Any], order: Order) -> Iterator[Any]:
    _keys(loader).order = order
    with _main_hidden(loader):
        batches = iter(loader)
    yield from batches


def _keys(loader: DataLoader[Any]) -> Keys:
    return cast(Keys, loader.batch_sampler)


_loaders: list[tuple[_Of, DataLoader[Any]]] = []
"""The one that was used last stands last."""


def _kept(of: _Of) -> DataLoader[Any]:
    """Return the set's loader with its workers, of this round or one before."""
    for index, (of_this, loader) in enumerate(_loaders):
        if of_this.same(of):
            _loaders.append(_loaders.pop(index))
            return loader
    while len(_loaders) >= KEPT:
        drop(_loaders[0][1])
    _loaders.append((of, _started(of)))
    return _loaders[-1][1]


def _started(of: _Of) -> DataLoader[Any]:
    """Return a loader whose workers run: of the fork server, or where a set can't be sent there,
    copies of this process.
    """
    loader = _made(of, FORK_SERVER)
    # Nothing yet: a pass is drawn once.
    _keys(loader).order = Order(0, 1)
    # So that torch is imported once for all workers, where the server does not run yet.
    multiprocessing.get_context(FORK_SERVER).set_forkserver_preload(["torch", __name__])
    try:
        with _main_hidden(loader):
            iter(loader)
    except Exception as error:  # whatever the set's own way to be sent raises
        log.warning("workers are copies of this process, because a set can't be sent: %s", error)
        return _made(of, FORK)
    return loader


def drop(loader: DataLoader[Any]) -> None:
    """End a loader's workers."""
    _loaders[:] = [entry for entry in _loaders if entry[1] is not loader]
    # Its own end is when it is collected, which a traceback can put off.
    iterator: Any = loader._iterator
    loader._iterator = None
    if iterator is not None:
        iterator._shutdown_workers()


def drop_all() -> None:
    """End the workers of all sets."""
    while _loaders:
        drop(_loaders[0][1])


@contextmanager
def _main_hidden(loader: DataLoader[Any]) -> Iterator[None]:
    """Keep workers from importing the main module again, unless the set is of it.

    A script without `if __name__ == "__main__"` would otherwise run once more in every worker.
    """
    main = sys.modules["__main__"]
    of = (type(cast(Drawn, loader.dataset).inner), loader.collate_fn)
    if all(getattr(one, "__module__", "") != "__main__" for one in of):
        sys.modules["__main__"] = type(main)("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _end_with_parent(worker: int) -> None:
    """End this worker when the process that uses it is gone: its parent is the fork server."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="meadow loader", daemon=True).start()


def _is_end_of_worker(error: BaseException) -> bool:
    """Say whether a worker has ended: torch notices it, or a batch that it was handing over breaks
    off.
    """
    if isinstance(error, EOFError | ConnectionError):
        # What a set itself raised in a worker comes with torch's words before it.
        return not str(error).startswith("Caught ")
    return "DataLoader worker" in str(error) and "exited" in str(error)


def _ended(error: BaseException) -> DataError:
    how = (str(error) or "it was handing over a batch").splitlines()[0]
    what = f"A process that loads examples ended: {how}"
    hint = (
        "Look for what ended it (memory, or the job's shm_size, which batches pass through), or set"
        " trainer.loader_workers=0."
    )
    return DataError("MDW-229", what, hint)
