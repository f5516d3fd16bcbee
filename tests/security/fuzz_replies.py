"""The whole path of a reply, from the objects that a silo sends to the aggregate: any bytes end there.

    python -m tests.security.fuzz_replies --cases 100000 --seed 0

Each case is a good reply with something wrong in it, compressed in some form or not: bytes of an
object, its tree, a layout, a metric, an array, any bits in place of an encoded one. It goes through
what the orchestrator does with it (inflate, unpack, digest, admission, fold), beside an honest
silo's. What may come out is an admitted update or a refusal; anything raised, a model that is not
finite, a case of more than `SECONDS` or memory that grows is a finding, printed with its seed.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import resource
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import numpy as np
import psutil
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from client.sums import specs_of
from client.tasks import task_named
from client.update_form import in_form
from conf.border import heard
from conf.errors import WireError
from conf.schema import VARIANTS
from server.engines.server_identity import give_identity_back, take_identity
from server.orchestrator.packed_grid import PackedGrid
from server.round.admission import Admission, Limits
from server.round.aggregation import Aggregation
from server.round.decoding import Decoding
from server.round.judgement import Admitted, Rejected
from server.round.sketch import Sketcher
from strategies.compression import codec_of
from strategies.compression.form import Form
from strategies.fedavg import FedAvg
from strategies.scaffold import Scaffold
from strategies.wire import protocol
from strategies.wire.digests import update_digest
from strategies.wire.objects import DTYPES, as_declared, deflate, inflate
from strategies.wire.packing import PACKED, pack_content
from tests.server.round.scripted_grid import Clock, TrainingGrid, sums_of

LONG: Final = 10_000
"""Cases from which on a process is warm after a fifth of them."""
SECONDS: Final = 5.0
"""Of CPU that one case may take."""
LIMIT: Final = 64 * 2**20
"""Bytes of arrays that a message may hold here."""
MEMORY: Final = 64 * 2**20
"""Bytes that one case may have at a time, the interpreter's own aside."""
GROWTH: Final = 64 * 2**20
"""Bytes by which the process may grow after the first fifth of the cases."""


@dataclass
class Outcome:
    """What came of all cases."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    slowest: float = 0.0
    largest: int = 0
    resident: list[int] = field(default_factory=list)
    """Bytes of the process after each twentieth of the cases."""


def model() -> ArrayRecord:
    """Return the model of the round: three arrays of two types and a counter."""
    arrays = {
        "a.weight": np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6),
        "a.bias": np.zeros(4, np.float32),
        "n.running_var": np.full(4, 1e3),
        "n.num_batches_tracked": np.array(7),
    }
    return ArrayRecord({name: Array(values) for name, values in arrays.items()})


class Fuzz:
    """One federation of two silos, of which one sends what `random` makes of a good reply."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seed = seed
        self.sent = model()
        specs = specs_of(task_named("digits"))
        self.admission = Admission(specs, limits=Limits(1e6, 10.0), sketcher=Sketcher(0))
        self.forms = [None, *(_form(name) for name in VARIANTS["compression"])]
        self.form: Form | None = None
        self.silos = TrainingGrid(Clock(), {1: "honest", 2: "liar"})
        self.grid = PackedGrid(self.silos)  # type: ignore[arg-type]  # it sends nothing
        # The bounds of what was sent, as after a push.
        self.grid._sent[protocol.ARRAYS] = str(pack_content(self.good("train"))[PACKED]["arrays"])

    def good(self, phase: str) -> RecordDict:
        """Return an honest reply."""
        numbers = MetricRecord({"num-examples": 10, "loss": 1.0, "seconds": 0.5})
        if phase == "evaluate":
            return RecordDict({protocol.SUMS: sums_of(10, 1.0), protocol.METRICS: numbers})
        extra = {n: self.sent[n] for n in ("a.weight", "a.bias", "n.running_var")}
        beside = {"c": ArrayRecord(extra)} if self.scaffold else {}
        trained = {name: tensor + 1 for name, tensor in protocol.to_state(self.sent).items()}
        update, _ = in_form(self.form, trained, self.sent, "liar", 1, {})
        return RecordDict({**update, protocol.METRICS: numbers, **beside})

    scaffold = False

    def case(self, number: int) -> tuple[str, bool]:
        """Go through one case; return what came of it, and whether that is a finding."""
        self.random.seed(f"{self.seed}/{number}")
        phase = self.random.choice(["train", "train", "train", "evaluate"])
        self.scaffold = phase == "train" and self.random.random() < 0.3
        self.form = self.random.choice(self.forms) if phase == "train" else None
        self.admission.decoding = None if self.form is None else Decoding(self.form)
        strategy = Scaffold() if self.scaffold else FedAvg()
        extra = {n: strategy.layout(n, self.sent) for n in strategy.extra}
        self.admission.open(1, self.sent, ["honest", "liar"], extra, 1.0)
        content = self._received(phase)
        if not isinstance(content, RecordDict):
            return content, False
        update_digest(content)
        verdict = self.admission.check(content, silo="liar", round=1, phase=phase)
        if isinstance(verdict, Rejected):
            return verdict.code, verdict.code == "MDW-624" or len(verdict.reason) > 2000
        if phase == "train":
            return self._folded(strategy, content)
        return "admitted", False

    def _received(self, phase: str) -> RecordDict | str:
        """Return what the orchestrator makes of the liar's bytes, or why it is refused there."""
        content = self.good(phase)
        self._spoil_records(content)
        if self.random.random() < 0.7:
            content = self._packed(content)
        message = Message(content, reply_to=Message(RecordDict(), 2, phase))
        root, _, objects = deflate(message)
        self._spoil_objects(objects)
        try:
            received = inflate(root, objects, LIMIT)
        except WireError as error:
            return error.code
        if isinstance(received, Error):
            assert heard(received.reason).isprintable()
            return "an error"
        message = Message(received, reply_to=Message(RecordDict(), 2, phase))
        unpacked = self.grid._unpacked(message)
        return "MDW-643" if unpacked.has_error() else unpacked.content

    def _packed(self, content: RecordDict) -> RecordDict:
        try:
            packed = pack_content(content)
        except WireError:
            # Not even a liar packs this: it is sent as it is.
            return content
        self._spoil_layout(packed)
        return packed

    def _folded(self, strategy: FedAvg, content: RecordDict) -> tuple[str, bool]:
        refused: list[str] = []

        def refuse(silo: str, why: Exception) -> None:
            refused.append(silo)

        list(strategy.configure_train(1, self.sent, ConfigRecord(), self.silos))
        honest = self.good("train")
        verdict = self.admission.check(honest, silo="honest", round=1, phase="train")
        assert isinstance(verdict, Admitted), verdict
        replies = (
            (silo, Message(given, reply_to=Message(RecordDict(), 1, "train")))
            for silo, given in (("honest", honest), ("liar", content))
        )
        aggregation = Aggregation(strategy, 1, self.sent, refuse, lambda: None)
        mean, _ = aggregation.of_stream(replies)
        assert mean is not None
        return ("refused in the fold" if refused else "admitted"), False

    # ---- what is wrong with a reply

    def _spoil_records(self, content: RecordDict) -> None:
        draw = self.random.random()
        if protocol.CHANGE in content and draw < 0.5:
            self._spoil_change(content[protocol.CHANGE])
        elif draw < 0.4:
            numbers = content[protocol.METRICS]
            for _ in range(self.random.randint(1, 3)):
                names = ["num-examples", "loss", "seconds", "size", "server-round", "withheld"]
                name = self.random.choice([*names, "\x1b[2J", "x" * 10_000, ""])
                numbers[name] = self._number()
        elif draw < 0.7:
            record = self.random.choice([r for r in content.values() if isinstance(r, ArrayRecord)])
            name = self.random.choice([*record, "other", "\x00"])
            record[name] = Array(self._values())
        elif draw < 0.75:
            del content[self.random.choice(list(content))]
        elif draw < 0.8:
            content["more"] = self.random.choice([model(), ConfigRecord({"a": b"\xff"})])
            content["software"] = ConfigRecord({"python": "\x1b" * self.random.randint(0, 500)})

    def _spoil_change(self, change: ArrayRecord) -> None:
        """Put any bits, of the right type and size, in place of an encoded array's."""
        name = self.random.choice(list(change))
        array = change[name]
        dtype = DTYPES[array.dtype]
        count = math.prod(array.shape)
        bits = self.random.randbytes(count * dtype.itemsize)
        if self.random.random() < 0.3:
            bits = bytes([self.random.choice([0, 1, 0x7F, 0x80, 0xFF])]) * len(bits)
        change[name] = as_declared(array.dtype, np.frombuffer(bits, dtype).reshape(array.shape))

    def _number(self) -> Any:
        return self.random.choice(
            [
                *(0, 1, -1, 2**29 - 1, 2**29, 2**62, -(2**63), 2**63 - 1),
                *(float("nan"), float("inf"), -float("inf"), 1e308, 5e-324, 0.1, -0.0),
                *([], [1.0, 2.0], [1, 2, 3]),
            ]
        )

    def _values(self) -> np.ndarray:
        kind = self.random.choice(["<f4", "<f8", "<i8", "?", "<c8", ">f4", "<f2", "<u2"])
        shapes = [(), (0,), (4,), (4, 6), (6, 4), (1,) * 30, (0, 2**40), (10, 10), (1,)]
        shape = self.random.choice(shapes)
        value = self.random.choice([0.0, 1.0, 1e30, -3e38, 1e300, np.nan, np.inf, 1e-40, 65504])
        with np.errstate(all="ignore"):
            made = np.full(shape, value).astype(kind)
        return np.asfortranarray(made) if self.random.random() < 0.2 else made

    def _spoil_layout(self, content: RecordDict) -> None:
        if self.random.random() < 0.5:
            return
        layouts = content[PACKED]
        name = self.random.choice([*layouts, "other"])
        layouts[name] = self._layout(str(layouts.get(name, "[]")))

    def _layout(self, text: str) -> Any:
        lies: list[Callable[[], Any]] = [
            lambda: _one_row(self.random.randrange(len(SIDES)), self.random.choice(COUNTS)),
            lambda: text.replace("float32", self.random.choice(["float64", "object", "x" * 99])),
            lambda: text.replace("4", "9" * self.random.choice([1, 20, 4299])),
            lambda: text[: self.random.randint(0, len(text))],
            lambda: "[" * 100_000,
            lambda: text + " " * 2**20,
            _many_rows,
            lambda: self.random.choice([1, 2.5, b"\x00", [1, 2]]),
        ]
        return self.random.choice(lies)()

    def _spoil_objects(self, objects: dict[str, bytes]) -> None:
        if self.random.random() < 0.5:
            return
        id = self.random.choice(list(objects))
        data = bytearray(objects[id])
        for _ in range(self.random.randint(1, 8)):
            at = self.random.randrange(len(data) + 1)
            kind = self.random.random()
            if kind < 0.5 and at < len(data):
                data[at] = self.random.randrange(256)
            elif kind < 0.7:
                del data[at : at + self.random.randint(1, 40)]
            elif kind < 0.9:
                data[at:at] = self.random.randbytes(self.random.randint(1, 40))
            else:
                data[at:at] = b"9" * self.random.choice([1, 100, 5000])
        objects[id] = bytes(data)
        if self.random.random() < 0.05:
            del objects[id]


SIDES: Final = (0, -1, 2**48, 2**63, 10**4000, "3", None, 1.5, True, 1e400, 10)
COUNTS: Final = (0, 1, 2, 33, 2000)
"""Of an array's sides."""


def _form(name: str) -> Form:
    """Return a form of updates of `model`, with one of its arrays frozen."""
    codec = codec_of(VARIANTS["compression"][name](name=name))
    frozen = frozenset({"a.bias"}) if name in ("none", "int4") else frozenset()
    return Form(codec, frozenset({"a.weight", "a.bias"}) - frozen, frozen, (), 0)


@cache
def _one_row(side: int, count: int) -> str:
    """Return a layout of one array with so many sides, written once: most cases would only wait for
    the writing.
    """
    return json.dumps([["a.weight", "float32", [SIDES[side]] * count]])


@cache
def _many_rows() -> str:
    return json.dumps([[f"w{i}", "float32", []] for i in range(5000)])


def fuzz(cases: int, seed: int, told: Callable[[str], None] = print) -> Outcome:
    """Go through so many cases, and return what came of them."""
    identity = take_identity(1)
    # What is refused is logged, and none of it is of interest here.
    logging.disable(logging.CRITICAL)
    outcome = Outcome()
    federation = Fuzz(seed)
    # Before memory is counted.
    for side in range(len(SIDES)):
        for count in COUNTS:
            _one_row(side, count)
    step = max(1, cases // 20)
    tracemalloc.start()
    try:
        for number in range(cases):
            _one(federation, number, outcome)
            if number % step == step - 1:
                outcome.resident.append(psutil.Process().memory_info().rss)
                size = outcome.resident[-1] >> 20
                told(f"{number + 1} cases, {len(outcome.findings)} findings, {size} MiB")
    finally:
        tracemalloc.stop()
        logging.disable(logging.NOTSET)
        give_identity_back(identity)
    warm = outcome.resident[len(outcome.resident) // 5 :]
    if cases >= LONG and max(warm) - warm[0] > GROWTH:
        outcome.findings.append(f"the process grew from {warm[0]} to {max(warm)} bytes")
    return outcome


def _one(federation: Fuzz, number: int, outcome: Outcome) -> None:
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    started = time.process_time()
    try:
        what, is_finding = federation.case(number)
    except Exception as error:
        what = f"raised {type(error).__name__}: {error!s:.200}"
        is_finding = True
    seconds = time.process_time() - started
    memory = tracemalloc.get_traced_memory()[1] - before
    outcome.counts[what if not is_finding else "finding"] += 1
    outcome.slowest = max(outcome.slowest, seconds)
    outcome.largest = max(outcome.largest, memory)
    if is_finding or seconds > SECONDS or memory > MEMORY:
        outcome.findings.append(f"case {number}: {what}, {seconds:.2f} s, {memory} bytes")


def main() -> None:
    """Print what came of all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    started = time.process_time()
    outcome = fuzz(given.cases, given.seed)
    for what, count in outcome.counts.most_common():
        print(f"{count:8} {what}")
    for finding in outcome.findings[:20]:
        print(finding)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{given.cases} cases, seed {given.seed}: {len(outcome.findings)} findings,"
        f" {time.process_time() - started:.0f} s of CPU, slowest case {outcome.slowest:.3f} s,"
        f" largest {outcome.largest / 2**20:.1f} MiB, process {resident} MiB"
    )


if __name__ == "__main__":
    main()
