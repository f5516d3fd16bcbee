"""What works between the orchestrator and each silo, tried before round 1 of `task=smoke`: messages of
several sizes there and back, and what each silo says of its machine.

A silo that fails has its error's code in the table, and ends nothing: the run's own round then tries
what is left, ready, statistics, train and evaluate. What a silo says is another party's text.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from conf.errors import MeadowError
from conf.files.whole import PRIVATE, write_atomic
from conf.schema import Conf
from server.round.array_layout import ArrayLayout
from server.round.error_text import plain_reason
from server.round.exchange import Closing, exchange
from server.round.judgement import AdmissionFault
from server.run.run_folder import RunFolder
from strategies.wire import protocol
from strategies.wire.objects import array_of
from strategies.wire.software import LONGEST

log = logging.getLogger(__name__)

SIZES: Final = (0, 2**10, 2**20, 2**23, 2**26)
"""Bytes, each there and back: from nothing to a model of 16 million weights."""
LOAD: Final = "load"
FILE: Final = "smoke.json"
TITLES: Final = ("device", "cores", "memory", "disk", "data", "clock", "meadow", "python", "torch")
_CODE: Final = re.compile(r"MDW-\d{3}")
_LINE: Final = re.compile(r"[\x20-\x7e]*")


@dataclass
class Tried:
    """One silo: the seconds of each size there and back, or the code of what went wrong, and what the
    silo says of itself.
    """

    silo: str
    seconds: dict[int, float] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


def try_silos(
    conf: Conf,
    grid: Grid,
    silos: Mapping[int, str],
    config: ConfigRecord,
    sizes: Sequence[int] = SIZES,
) -> list[Tried]:
    """Return what came of each silo (by node id), in the order of their names."""
    tried = {silo: Tried(silo) for silo in sorted(silos.values())}
    config[protocol.ROUND] = 1
    for size in sizes:
        values = _load(size)
        content = RecordDict(
            {protocol.ARRAYS: ArrayRecord({LOAD: array_of(values)}), protocol.CONFIG: config}
        )
        questions = [Message(content, node, protocol.SMOKE) for node in sorted(silos)]
        began = time.time()
        started = time.monotonic()
        for node, reply, _ in exchange(grid, questions, Closing(conf.run.round_timeout)):
            one = tried[silos[node]]
            seconds = time.monotonic() - started
            try:
                facts = _admitted(reply, values)
            except AdmissionFault as fault:
                one.failed[size] = fault.code
                log.warning("%s, %s: %s", one.silo, in_bytes(size), fault)
                continue
            one.seconds[size] = seconds
            # Of the smallest message: what is left of the way is in the answer's error.
            one.facts = one.facts or _in_words(facts, began, seconds)
    return list(tried.values())


def table(tried: Sequence[Tried]) -> list[str]:
    """Return it as lines of text: a silo a line, and the seconds of each size."""
    sizes = sorted({size for one in tried for size in (*one.seconds, *one.failed)})
    rows = [("silo", *TITLES, *(in_bytes(size) for size in sizes))]
    for one in tried:
        facts = [one.facts.get(title, "–") for title in TITLES]
        cells = [
            f"{one.seconds[size]:.2f} s" if size in one.seconds else one.failed.get(size, "–")
            for size in sizes
        ]
        rows.append((one.silo, *facts, *cells))
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def keep(tried: Sequence[Tried], folder: RunFolder) -> None:
    """Write it beside the run's other files, as `smoke.json`; a disk that is full is said."""
    try:
        text = json.dumps([asdict(one) for one in tried], indent=1)
        write_atomic(folder.path / FILE, text.encode(), PRIVATE)
    except MeadowError as error:
        log.error("%s could not be written: %s", FILE, error)


def in_bytes(size: int) -> str:
    """Return a size in words."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} B"


def _load(size: int) -> np.ndarray:
    # Of a seed: what nobody can pack, and what no silo can have had before.
    return np.random.default_rng(size).integers(0, 256, size, np.uint8)


def _admitted(reply: Message, sent: np.ndarray) -> dict[str, Any]:
    """Return the facts of an answer that brings back what was sent, in reverse."""
    if reply.has_error():
        reason = plain_reason(reply.error.reason)
        code = _CODE.search(reason)
        raise AdmissionFault(code[0] if code else "MDW-304", reason)
    record = protocol.records(reply.content, ArrayRecord).get(protocol.ARRAYS)
    if record is None or list(record) != [LOAD]:
        raise AdmissionFault("MDW-610", "it does not bring back what it was sent")
    back = ArrayLayout("uint8", sent.shape).values_of(LOAD, record[LOAD])
    if not np.array_equal(back, sent[::-1]):
        raise AdmissionFault("MDW-613", "what it brings back is not what it was sent")
    return dict(protocol.records(reply.content, ConfigRecord).get(protocol.FACTS, {}))


def _in_words(facts: Mapping[str, Any], began: float, seconds: float) -> dict[str, str]:
    """Return what a silo says of itself, as far as it is of the kind that is asked for."""
    found = {}
    for name in ("device", "data", "meadow", "python", "torch"):
        value = facts.get(name)
        if isinstance(value, str) and len(value) <= LONGEST and _LINE.fullmatch(value):
            found[name] = value or "–"
    for name in ("memory", "disk"):
        value = facts.get(name)
        if isinstance(value, int) and 0 <= value < 2**62:
            found[name] = in_bytes(value)
    count = facts.get("cores")
    if isinstance(count, int) and 0 < count < 2**20:
        found["cores"] = str(count)
    clock = facts.get("clock")
    if isinstance(clock, int | float) and math.isfinite(clock):
        found["clock"] = clock_in_words(clock - began, seconds)
    return found


def clock_in_words(ahead: float, seconds: float) -> str:
    """Return how far a clock is off that was `ahead` of ours when an exchange of so many seconds began:
    it was looked at somewhen in it.
    """
    if -1.0 <= ahead <= seconds + 1.0:
        return "right"
    off = ahead if ahead < 0 else ahead - seconds
    return f"{off:+.0f} s"
