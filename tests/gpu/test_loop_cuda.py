"""The loop on a real GPU: its bits, its numbers, its failures. Skipped where there is none."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from client import loop
from client.batches.loaded import drop_all
from client.batches.resident import residents
from client.device import reproducible
from client.flat_copy import to_device, to_host
from client.models import build_model
from client.optimizer import optimizer_of
from client.tasks import task_named
from client.tasks.base import Data, Task
from conf.errors import DataError
from conf.schema import DataConf, ModelConf, Silo, TrainerConf
from strategies.fedprox import FedProxSilo
from strategies.wire import protocol

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine")

GPU = torch.device("cuda", 0)
DIGITS = task_named("digits")
MIB = 2**20
ROOT = Path(__file__).parents[2]


def gpu(**keys: Any) -> TrainerConf:
    """A trainer on the GPU, with the concrete values that a silo's loop is given."""
    return TrainerConf(**{"device": "cuda", "precision": "fp32", "lr": 0.01, **keys})


@pytest.fixture(scope="module")
def data() -> Data:
    return DIGITS.data(Silo("north", data=DataConf(partition="iid", examples=250)))


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    residents._crowded.clear()
    yield
    drop_all()


def cnn() -> nn.Module:
    return build_model(ModelConf(name="cnn"), DIGITS, seed=1)


def noisy() -> nn.Module:
    """A model that draws, and whose buffers move."""
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Dropout(0.5), nn.Linear(288, 10)
    )


def trained(conf: TrainerConf, dataset: Dataset[Any], net: nn.Module, **more: Any) -> nn.Module:
    net = loop.prepare(copy.deepcopy(net), conf)
    loop.train(net, dataset, more.pop("task", DIGITS), conf, more.pop("half", None), seed=3, **more)
    return net


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x.cpu(), y.cpu()) for x, y in pairs)


def near(a: nn.Module, b: nn.Module, atol: float) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.allclose(x.cpu().float(), y.cpu().float(), atol=atol) for x, y in pairs)


class OnDisk(Dataset[tuple[Tensor, Tensor]]):
    """The same examples one at a time."""

    def __init__(self, inner: TensorDataset) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.inner[index]
        return x, y


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_the_same_seed_gives_the_same_bits(data: Data, precision: str) -> None:
    conf = gpu(precision=precision, channels_last=precision != "fp32", epochs=2)
    first = trained(conf, data.train, noisy(), half=FedProxSilo(0.1))
    assert same(first, trained(conf, data.train, noisy(), half=FedProxSilo(0.1)))
    assert next(first.parameters()).dtype == torch.float32


def test_in_fp32_the_model_is_the_cpu_s_wherever_the_data_lies(data: Data) -> None:
    assert isinstance(data.train, TensorDataset)
    on_cpu = trained(TrainerConf(device="cpu", precision="fp32", lr=0.01), data.train, cnn())
    resident = trained(gpu(), data.train, cnn())
    assert residents.copies(data.train, next(resident.parameters()).device) is not None
    assert near(resident, on_cpu, atol=1e-4)
    residents.leave(next(resident.parameters()).device)
    for conf, dataset in (
        (gpu(keep_on_device=False), data.train),
        (gpu(), OnDisk(data.train)),
        (gpu(loader_workers=1), OnDisk(data.train)),
    ):
        assert same(resident, trained(conf, dataset, cnn()))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_batches_that_are_copied_ahead_are_never_overwritten(precision: str) -> None:
    # Large and quick to compute: the copy of the next one runs while this one is read.
    draws = torch.Generator().manual_seed(1)
    images = torch.rand(768, 3, 128, 128, generator=draws)
    labels = torch.randint(10, (768,), generator=draws)
    dataset = TensorDataset(images, labels)
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.Flatten(), nn.Linear(3844, 10))
    conf = gpu(precision=precision, batch_size=96, epochs=3)
    residents.measure(GPU)
    expected = trained(conf, dataset, net)
    for accumulate in (1, 4):
        host = gpu(
            precision=precision,
            batch_size=96,
            epochs=3,
            keep_on_device=False,
            accumulate=accumulate,
        )
        if accumulate == 1:
            assert same(expected, trained(host, dataset, net))
        else:
            here = gpu(precision=precision, batch_size=96, epochs=3, accumulate=accumulate)
            assert same(trained(here, dataset, net), trained(host, dataset, net))


def products(conf: TrainerConf) -> tuple[float, float]:
    """Return the relative errors of a matrix product and of a convolution."""
    draws = torch.Generator().manual_seed(1)
    a, b = (torch.rand(512, 512, generator=draws).to(GPU) for _ in range(2))
    image = torch.rand(16, 64, 56, 56, generator=draws).to(GPU)
    kernel = torch.rand(64, 64, 3, 3, generator=draws).to(GPU)
    with reproducible(GPU, 1, conf):
        made = (a @ b, functional.conv2d(image, kernel))
    exact = (a.double() @ b.double(), functional.conv2d(image.double(), kernel.double()))
    first, second = (
        float((x.double() - y).abs().max() / y.abs().max())
        for x, y in zip(made, exact, strict=True)
    )
    return first, second


def switches() -> tuple[bool, bool]:
    with warnings.catch_warnings():
        # Some releases of torch warn of their older switches where they are read.
        warnings.simplefilter("ignore")
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_fp32_is_whole_and_tf32_is_shorter_in_products_and_convolutions() -> None:
    before = switches()
    assert max(products(gpu(precision="fp32"))) < 1e-5
    if torch.cuda.get_device_capability()[0] >= 8:
        assert min(products(gpu(precision="tf32"))) > 1e-5
    assert switches() == before


class Full(type(DIGITS)):  # type: ignore[misc]  # the class of a task
    """Digits on a device that has no memory at some losses, counted from 1."""

    def __init__(self, at: set[int]) -> None:
        self.name = "digits"
        self.at = at
        self.asked = 0

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        self.asked += 1
        if self.asked in self.at:
            torch.empty(2**50, dtype=torch.uint8, device=GPU)  # more than there is anywhere
        loss: Tensor = super().loss(output, batch)
        return loss


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_batch_that_finds_memory_full_once_leaves_the_same_bits(
    data: Data, precision: str
) -> None:
    conf = gpu(precision=precision, batch_size=16)
    undisturbed = trained(conf, data.train, noisy())
    task = Full({2, 9})
    assert same(undisturbed, trained(conf, data.train, noisy(), task=task))
    # What was resident has left, to make room.
    assert isinstance(data.train, TensorDataset)
    assert residents.copies(data.train, GPU) is None


def wide() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 65536), nn.ReLU(), nn.Linear(65536, 10))


def test_a_batch_that_does_not_fit_is_an_error_with_a_number_and_the_next_round_is_well() -> None:
    draws = torch.Generator().manual_seed(1)
    dataset = TensorDataset(
        torch.rand(8192, 1, 8, 8, generator=draws), torch.randint(10, (8192,), generator=draws)
    )
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info(GPU)
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 768 * MIB) / total)
    try:
        net = loop.prepare(wide(), gpu())
        with pytest.raises(DataError, match=r"MDW-225: A batch of 8192.*batch_size_at_most=4096"):
            loop.train(net, dataset, DIGITS, gpu(batch_size=8192), seed=1)
        done = loop.train(net, dataset, DIGITS, gpu(batch_size=256), seed=1)
        assert done.metrics[protocol.NUM_EXAMPLES] == 8192
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


LOST = """
import os, torch
from torch import nn
from torch.utils.data import TensorDataset
from client import loop
from client.device_failures import DeviceLost
from client.tasks import task_named
from conf.schema import TrainerConf

conf = TrainerConf(device="cuda", precision="fp32", batch_size=8)
net = loop.prepare(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), conf)
labels = torch.full((32,), 11)
try:
    loop.train(net, TensorDataset(torch.rand(32, 1, 8, 8), labels), task_named("digits"), conf, seed=1)
except DeviceLost as error:
    print("said", error.code, flush=True)
    os._exit(0)
os._exit(1)
"""


def test_a_label_that_is_no_class_loses_the_context_and_is_told_as_that() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOST],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "said MDW-226" in done.stdout, done.stderr[-2000:]


class Pooled(nn.Module):
    """A model with an operation that has no deterministic form on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(3)
        self.out = nn.Linear(36, 10)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.out(self.pool(self.conv(images)).flatten(1))
        return made


def test_an_operation_without_deterministic_form_is_named_or_refused(data: Data) -> None:
    net = loop.prepare(Pooled(), gpu())
    done = loop.train(net, data.train, DIGITS, gpu(deterministic="auto"), seed=1)
    assert any("adaptive_avg_pool2d" in name for name in done.irreproducible)
    with pytest.raises(
        DataError, match=r"MDW-227: trainer.deterministic=true: adaptive_avg_pool2d"
    ):
        loop.train(net, data.train, DIGITS, gpu(deterministic="true"), seed=1)
    fast = loop.train(net, data.train, DIGITS, gpu(deterministic="false"), seed=1)
    assert fast.irreproducible == ()
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_host_waits_for_the_gpu_once_a_round(data: Data, precision: str, keep: bool) -> None:
    conf = gpu(precision=precision, keep_on_device=keep, batch_size=16, clip_norm=1.0)
    net = loop.prepare(noisy(), conf)
    loop.train(net, data.train, DIGITS, conf, FedProxSilo(0.1), seed=1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            loop.train(net, data.train, DIGITS, conf, FedProxSilo(0.1), seed=2)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [one for one in told if "called a synchronizing" in str(one.message)]
    assert len(waits) == 1, [f"{one.filename}:{one.lineno} {one.message}" for one in told]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimizers_are_fused(data: Data, name: str) -> None:
    conf = gpu(optimizer=name, lr=0.001)
    net = loop.prepare(cnn(), conf)
    assert optimizer_of(net, conf).defaults["fused"] is True
    there = loop.train(net, data.train, DIGITS, conf, seed=3).metrics[protocol.LOSS]
    other = TrainerConf(device="cpu", precision="fp32", optimizer=name, lr=0.001)
    here = loop.train(cnn(), data.train, DIGITS, other, seed=3).metrics[protocol.LOSS]
    assert there == pytest.approx(here, rel=1e-2)


def test_in_fp16_a_step_that_overflows_is_taken_again(data: Data) -> None:
    class Loud(type(DIGITS)):  # type: ignore[misc]  # the class of a task
        name = "digits"

        def loss(self, output: Tensor, batch: Any) -> Tensor:
            loss: Tensor = super().loss(output, batch)
            return loss * 1000

    conf = gpu(precision="fp16", lr=1e-5, batch_size=64)
    net = loop.prepare(cnn(), conf)
    done = loop.train(net, data.train, Loud(), conf, seed=1)
    assert done.metrics[protocol.SKIPPED_STEPS] == 0
    assert float(done.scaling["scale"]) < 65536


def test_an_evaluation_of_a_half_trained_model_is_of_the_model_that_travels(data: Data) -> None:
    conf = gpu(precision="bf16")
    net = trained(conf, data.train, cnn())
    found = loop.evaluate(net, data.validation, DIGITS, conf).sums
    expected = loop.evaluate(net.cpu(), data.validation, DIGITS, TrainerConf(precision="fp32")).sums
    assert torch.equal(found["confusion"].sum(), expected["confusion"].sum())
    assert float(found["loss"]) == pytest.approx(float(expected["loss"]), rel=5e-3)


def test_arrays_travel_in_one_piece_and_are_the_same() -> None:
    draws = torch.Generator().manual_seed(1)
    arrays = {
        "count": torch.tensor(7),
        "half": torch.rand(5, generator=draws).half(),
        "none": torch.empty(0, 3),
        "image": torch.rand(2, 3, 4, 4, generator=draws).to(memory_format=torch.channels_last),
        "weight": torch.rand(300, 200, generator=draws),
    }
    there = to_device(arrays, GPU)
    assert all(array.device == GPU for array in there.values())
    laid_out = {**there, "image": there["image"].to(memory_format=torch.channels_last)}
    again = {name: array.clone() for name, array in to_host(laid_out).items()}
    # What is on the device does not change with the next copy.
    to_device({name: torch.zeros_like(array) for name, array in arrays.items()}, GPU)
    for name, array in arrays.items():
        assert torch.equal(again[name], array) and torch.equal(there[name].cpu(), array)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_model_is_near_the_eager_one_and_compiled_once(data: Data, mode: str) -> None:
    conf = gpu(compile=mode, batch_size=32)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    eager = trained(gpu(batch_size=32), data.train, net)
    made = loop.prepare(copy.deepcopy(net), conf)
    seconds = []
    for _ in range(2):
        made.load_state_dict(net.state_dict())
        done = loop.train(made, data.train, DIGITS, conf, seed=3)
        seconds.append(done.metrics[protocol.SECONDS_COMPILING])
        assert near(made, eager, atol=1e-3)
    assert seconds[0] > 0 and seconds[1] == 0
    found = loop.evaluate(made, data.validation, DIGITS, conf).sums
    expected = loop.evaluate(eager, data.validation, DIGITS, gpu()).sums
    assert float(found["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-2)


def test_a_task_of_this_tree_is_what_the_tests_take_it_for() -> None:
    assert isinstance(DIGITS, Task)
