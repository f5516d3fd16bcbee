"""The loop on a GPU against a bare loop of PyTorch, a row for each change of one setting.

    python benchmarks/gpu.py --out FOLDER                  # all rows, about six minutes on an H100
    python benchmarks/gpu.py --out FOLDER --rows base,host --seconds 60
    python benchmarks/gpu.py --out FOLDER --tiny           # on whatever is here: that it runs

Base row: ResNet-50, 224 pixels, batches of 128, bf16, channels_last, not compiled, deterministic
as `auto`, the set resident as bytes that the model scales. The bare loop has the same tensors, order
and switches and `torch.optim.SGD(fused=True)`; the two take turns in one process, and what counts is
the median of the turns. Rows are written as they are done (rows.jsonl, table.md), so a call that is
cut short leaves what it has. The status is 1 where a gate is missed: `--no-gates` says so and leaves
it at 0.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from client import loop
from client.batches.loaded import drop_all
from client.batches.resident import residents
from client.device import reproducible
from client.tasks.base import Contract, Data
from client.tasks.kinds.classification import Classification
from conf.schema import Silo, TrainerConf
from strategies.wire import protocol

CLASSES: Final = 10
TURNS: Final = 3
GATES: Final = {"base": 0.97, "host": 0.9, "loader": 0.95}
"""The least of Meadow's images a second as a part of the bare loop's, by row."""
DEFAULTS_AT_LEAST: Final = 0.8
"""Images a second with default settings, as a part of the best row's of the same model and size."""


class Images(Classification):
    """Made-up images, of bytes."""

    name = "images"

    def __init__(self, pixels: int, channels: int) -> None:
        self.contract = Contract((channels, pixels, pixels), tuple("0123456789"))

    def read_as(self, *_: Any) -> Any:
        """There are no files."""
        raise NotImplementedError

    def data(self, silo: Silo) -> Data:
        """There is no silo."""
        raise NotImplementedError


class Scaled(nn.Module):
    """A model that takes bytes, as the tasks of images have it (`client.images.pixel_layer`)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        made: Tensor = self.model(images.float().div(255).sub(0.5).div(0.25))
        return made


class OneByOne(Dataset[Any]):
    """A set that gives one example at a time, as files do; each costs a copy."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]


@dataclass(frozen=True)
class Row:
    """One setting of everything."""

    name: str
    model: str = "resnet50"
    pixels: int = 224
    batch: int = 128
    precision: str = "bf16"
    channels_last: bool = True
    compile: str = "off"
    deterministic: str = "auto"
    data: str = "resident"
    """resident, host (gathered in memory), or loader (a DataLoader with `workers`)."""
    workers: int = 8
    batches: int = 20
    """In a turn: a round of one epoch."""

    def trainer(self, device: torch.device) -> TrainerConf:
        """Return the settings of Meadow's loop."""
        return TrainerConf(
            device=str(device),
            batch_size=self.batch,
            lr=0.01,
            precision=self.precision,
            channels_last=self.channels_last,
            compile=self.compile,
            deterministic=self.deterministic,
            keep_on_device=self.data == "resident",
            loader_workers=self.workers if self.data == "loader" else 0,
        )


BASE: Final = Row("base")
DEFAULTS: Final = Row("defaults")
"""What a run that says nothing has on this GPU: bf16 and channels_last, as `base`."""
PLAIN_LAYOUT: Final = Row("not-channels-last", channels_last=False)
ROWS: Final = (
    BASE,
    DEFAULTS,
    PLAIN_LAYOUT,
    replace(BASE, name="host", data="host"),
    replace(BASE, name="loader", data="loader"),
    replace(BASE, name="tf32", precision="tf32"),
    replace(BASE, name="fp32", precision="fp32", channels_last=False, batches=10),
    replace(BASE, name="strict", deterministic="true"),
    replace(BASE, name="fastest", deterministic="false"),
    replace(BASE, name="batch-256", batch=256, batches=10),
    replace(BASE, name="compiled", compile="default"),
    replace(BASE, name="resnet18", model="resnet18", batches=40),
    replace(BASE, name="resnet18-host", model="resnet18", data="host", batches=40),
    replace(BASE, name="32-pixels", pixels=32, batches=60),
    Row("niid-cnn", model="niid", pixels=32, batch=32, channels_last=False, batches=400),
    Row(
        "niid-cnn-graphs",
        model="niid",
        pixels=32,
        batch=32,
        channels_last=False,
        batches=400,
        compile="reduce-overhead",
    ),
    Row(
        "niid-cnn-fp32",
        model="niid",
        pixels=32,
        batch=32,
        channels_last=False,
        precision="fp32",
        batches=400,
    ),
)
TINY: Final = (
    Row("base", "niid", 32, 4, batches=3, workers=1),
    Row("defaults", "niid", 32, 4, channels_last=False, batches=3),
    Row("host", "niid", 32, 4, data="host", batches=3),
    Row("loader", "niid", 32, 4, data="loader", batches=3, workers=1),
)


@dataclass
class Result:
    """What a row has given."""

    row: dict[str, Any]
    meadow: float = 0.0
    """Images a second, the median of the turns."""
    bare: float = 0.0
    ratio: float = 0.0
    """The median of the turns' ratios."""
    turns: list[tuple[float, float]] = field(default_factory=list)
    first_seconds: float = 0.0
    """Of Meadow's first round: compilation, copies, cuDNN's first looks."""
    syncs: int = 0
    """Times that the host waited for the GPU in a round."""
    peak_mib: float = 0.0
    bare_peak_mib: float = 0.0
    set_mib: float = 0.0
    irreproducible: list[str] = field(default_factory=list)
    failed: str = ""


def niid_cnn(classes: int) -> nn.Module:
    """Return the small network of the NIID benchmark: 5 x 5 convolutions of 6 and 16 channels."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )


def network(row: Row) -> nn.Module:
    """Return a row's model on the host, the same each time."""
    torch.manual_seed(1)
    if row.model == "niid":
        return Scaled(niid_cnn(CLASSES))
    from torchvision.models import get_model

    return Scaled(get_model(row.model, weights=None, num_classes=CLASSES))


def examples(row: Row) -> tuple[Tensor, Tensor]:
    """Return images of bytes and labels for a turn."""
    draws = torch.Generator().manual_seed(2)
    count = row.batch * row.batches
    shape = (count, 3, row.pixels, row.pixels)
    images = torch.randint(256, shape, generator=draws, dtype=torch.uint8)
    return images, torch.randint(CLASSES, (count,), generator=draws)


def waited(device: torch.device) -> float:
    """Return the time when the device has done all that it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Meadow:
    """Meadow's own loop, a round of one epoch a turn."""

    def __init__(self, row: Row, device: torch.device, images: Tensor, labels: Tensor) -> None:
        self.conf = row.trainer(device)
        self.task = Images(row.pixels, 3)
        self.device = device
        loaded = row.data == "loader"
        self.dataset: Dataset[Any] = (
            OneByOne(images, labels) if loaded else TensorDataset(images, labels)
        )
        self.model = loop.prepare(network(row), self.conf)
        self.rounds = 0
        self.irreproducible: tuple[str, ...] = ()

    def turn(self) -> None:
        """Train a round."""
        self.rounds += 1
        done = loop.train(self.model, self.dataset, self.task, self.conf, seed=self.rounds)
        self.irreproducible = done.irreproducible
        assert done.metrics[protocol.NUM_EXAMPLES] > 0


class Bare:
    """The loop that a person writes for speed: the same tensors, order and switches."""

    def __init__(self, row: Row, device: torch.device, images: Tensor, labels: Tensor) -> None:
        self.row = row
        self.conf = row.trainer(device)
        self.device = device
        self.model = loop.prepare(network(row), self.conf)
        cuda = device.type == "cuda"
        fused = {"fused": True} if cuda else {}
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=self.conf.lr, momentum=self.conf.momentum, **fused
        )
        self.rounds = 0
        self.images = images
        self.labels = labels
        self.loader: DataLoader[Any] | None = None
        if row.data == "resident":
            self.images = images.to(device)
            self.labels = labels.to(device)
        if row.data == "host" and cuda:
            # What a person does with a set in memory: pin it once, and index it there.
            self.buffers = [
                (
                    torch.empty((row.batch, *images.shape[1:]), dtype=torch.uint8).pin_memory(),
                    torch.empty(row.batch, dtype=labels.dtype).pin_memory(),
                    torch.cuda.Event(),
                )
                for _ in range(2)
            ]
        if row.data == "loader":
            self.loader = DataLoader(
                OneByOne(images, labels),
                row.batch,
                shuffle=True,
                num_workers=row.workers,
                pin_memory=cuda,
                persistent_workers=True,
                prefetch_factor=4,
                multiprocessing_context="forkserver",
            )

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of one epoch on the device."""
        if self.loader is not None:
            for images, labels in self.loader:
                yield (
                    images.to(self.device, non_blocking=True),
                    labels.to(self.device, non_blocking=True),
                )
            return
        draws = torch.Generator().manual_seed(self.rounds)
        order = torch.randperm(len(self.labels), generator=draws)
        if self.row.data == "host" and self.device.type == "cuda":
            yield from self._from_host(order)
            return
        for part in order.to(self.labels.device).split(self.row.batch):
            yield self.images.index_select(0, part), self.labels.index_select(0, part)

    def _from_host(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for number, part in enumerate(order.split(self.row.batch)):
            images, labels, copied = self.buffers[number % 2]
            copied.synchronize()
            torch.index_select(self.images, 0, part, out=images)
            torch.index_select(self.labels, 0, part, out=labels)
            there = (
                images.to(self.device, non_blocking=True),
                labels.to(self.device, non_blocking=True),
            )
            copied.record()
            yield there

    def turn(self) -> None:
        """Train an epoch."""
        self.rounds += 1
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.row.precision)
        total = torch.zeros((), device=self.device)
        self.model.train()
        with reproducible(self.device, self.rounds, self.conf):
            for images, labels in self.batches():
                cast = nullcontext() if half is None else torch.autocast(self.device.type, half)
                with cast:
                    loss = nn.functional.cross_entropy(self.model(images).float(), labels)
                loss.backward()  # type: ignore[no-untyped-call]  # torch's own
                self.optimizer.step()
                self.optimizer.zero_grad()
                total.add_(loss.detach())
        total.item()


def timed(turn: Callable[[], None], images: int, device: torch.device) -> float:
    """Return the images a second of one turn."""
    started = waited(device)
    turn()
    return images / (waited(device) - started)


@contextmanager
def peak(device: torch.device, found: Callable[[float], None]) -> Iterator[None]:
    """Tell how many MiB of the device were allocated at most."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield
    if device.type == "cuda":
        found(torch.cuda.max_memory_allocated(device) / 2**20)


def syncs(turn: Callable[[], None], device: torch.device) -> int:
    """Return how often the host waits for the GPU in a turn."""
    if device.type != "cuda":
        return 0
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            turn()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(one.message) for one in told)


def measured(row: Row, device: torch.device) -> Result:
    """Return what a row gives."""
    result = Result(asdict(row))
    images, labels = examples(row)
    result.set_mib = images.nbytes / 2**20
    count = len(labels)
    bare = Bare(row, device, images, labels)
    with peak(device, lambda mib: setattr(result, "bare_peak_mib", round(mib))):
        bare.turn()
    residents.measure(device)
    meadow = Meadow(row, device, images, labels)
    started = waited(device)
    meadow.turn()
    result.first_seconds = round(waited(device) - started, 2)
    # By now it is known what training takes, and the set stays on the GPU.
    meadow.turn()
    result.irreproducible = list(meadow.irreproducible)
    result.syncs = syncs(meadow.turn, device)
    with peak(device, lambda mib: setattr(result, "peak_mib", round(mib))):
        timed(meadow.turn, count, device)
    for number in range(TURNS):
        # Whoever goes first has a cooler chip: they take turns at that as well.
        pair = {}
        for name in ("meadow", "bare") if number % 2 else ("bare", "meadow"):
            pair[name] = timed({"meadow": meadow, "bare": bare}[name].turn, count, device)
        result.turns.append((pair["meadow"], pair["bare"]))
    result.meadow = round(statistics.median(m for m, _ in result.turns), 1)
    result.bare = round(statistics.median(b for _, b in result.turns), 1)
    result.ratio = round(statistics.median(m / b for m, b in result.turns), 3)
    return result


def forget(row: Row, device: torch.device) -> None:
    """Leave nothing of one row to the next."""
    drop_all()
    gc.collect()
    if row.compile != "off":
        torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def table(results: list[Result]) -> str:
    """Return the rows as a table."""
    lines = [
        "| row | Meadow, img/s | bare, img/s | ratio | syncs | first round, s | peak, MiB (bare) |"
        " not reproducible |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        name = one.row["name"]
        if one.failed:
            lines.append(f"| {name} | {one.failed} | | | | | | |")
            continue
        noted = ", ".join(one.irreproducible)
        lines.append(
            f"| {name} | {one.meadow:,.0f} | {one.bare:,.0f} | {one.ratio:.3f} | {one.syncs}"
            f" | {one.first_seconds:.1f} | {one.peak_mib:,.0f} ({one.bare_peak_mib:,.0f})"
            f" | {noted} |"
        )
    return "\n".join(lines) + "\n"


def missed(results: list[Result], device: torch.device) -> list[str]:
    """Return which gates are missed, in words."""
    done = {one.row["name"]: one for one in results if not one.failed}
    found = [f"{one.row['name']}: {one.failed}" for one in results if one.failed]
    for name, least in GATES.items():
        if name in done and done[name].ratio < least:
            found.append(f"{name}: {done[name].ratio} of the bare loop, and not {least}")
    for name, one in done.items():
        if device.type == "cuda" and one.syncs != 1:
            found.append(f"{name}: the host waits {one.syncs} times a round, and not once")
    like_base = [
        one.meadow
        for one in done.values()
        if (one.row["model"], one.row["pixels"]) == (BASE.model, BASE.pixels)
    ]
    if "defaults" in done and like_base and device.type == "cuda":
        share = done["defaults"].meadow / max(like_base)
        if share < DEFAULTS_AT_LEAST:
            found.append(f"defaults: {share:.2f} of the best row, and not {DEFAULTS_AT_LEAST}")
    return found


def machine(device: torch.device) -> str:
    """Return in a line what this was measured on."""
    if device.type != "cuda":
        return f"torch {torch.__version__}, {device}"
    name = torch.cuda.get_device_name(device)
    cuda, cudnn = torch.version.cuda, torch.backends.cudnn.version()
    return f"torch {torch.__version__}, {name}, CUDA {cuda}, cuDNN {cudnn}"


def run(rows: list[Row], device: torch.device, out: Path, seconds: float) -> list[Result]:
    """Measure rows until the time is up, and write each down as it is done."""
    out.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    until = time.monotonic() + seconds
    for row in rows:
        if time.monotonic() > until:
            print(f"no time for {row.name} and what follows", flush=True)
            break
        started = time.monotonic()
        try:
            result = measured(row, device)
        except Exception as error:
            result = Result(asdict(row), failed=f"{type(error).__name__}: {error}"[:300])
        forget(row, device)
        results.append(result)
        took = time.monotonic() - started
        print(f"{row.name}: {result.failed or result.ratio} ({took:.0f} s)", flush=True)
        with (out / "rows.jsonl").open("a") as file:
            file.write(json.dumps(asdict(result) | {"took": round(took, 1)}) + "\n")
        (out / "table.md").write_text(f"{machine(device)}\n\n{table(results)}")
    return results


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table and return the exit status."""
    parser = argparse.ArgumentParser(description="The loop on a GPU against a bare loop.")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"), help="of the results")
    parser.add_argument("--rows", default="", help="names, with commas; default: all")
    parser.add_argument("--seconds", type=float, default=330, help="no row begins after that")
    parser.add_argument("--tiny", action="store_true", help="a few seconds, on whatever is here")
    parser.add_argument("--no-gates", action="store_true", help="status 0 where one is missed")
    asked = parser.parse_args(arguments)
    # The first GPU, by its number: torch's "current" one is no name for what lies there.
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cpu" and not asked.tiny:
        print("there is no CUDA GPU: nothing to measure; --tiny runs without one")
        return 0
    every = TINY if asked.tiny else ROWS
    wanted = set(filter(None, asked.rows.split(",")))
    if unknown := wanted - {row.name for row in every}:
        parser.error(f"no such rows: {', '.join(sorted(unknown))}")
    rows = [row for row in every if not wanted or row.name in wanted]
    results = run(rows, device, asked.out, asked.seconds)
    print(machine(device))
    print(table(results))
    gates = missed(results, device)
    for one in gates:
        print("MISSED", one)
    if asked.tiny:
        return int(any(one.failed for one in results))
    return int(bool(gates) and not asked.no_gates)


if __name__ == "__main__":
    sys.exit(main())
