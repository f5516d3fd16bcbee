"""In which numbers, compiled how and how strictly a silo trains: what the run asks for, what the
silo's owner sets, and what the hardware is, made into one trainer that holds concrete values.

It is asked once, where a silo prepares its training; the loop never sees an `auto` of precision.

    MDW-363 a precision that the device does not compute in, or the run's algorithm does not allow
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from client import capacity
from client.placement import masked
from conf.errors import SiloError
from conf.schema import MachineConf, TrainerConf

AS_THE_RUN_SAYS: Final = MachineConf()
AMPERE: Final = 8
"""The first CUDA compute capability that has TF32 and bf16."""


@dataclass(frozen=True)
class Hardware:
    """What of a device decides what it is given to compute."""

    kind: str
    """As torch calls it: `cpu`, `cuda`, `mps`."""
    bf16: bool = True
    """Whether it computes in bf16, and does not only imitate it."""
    tf32: bool = False
    name: str = ""

    @staticmethod
    def of(device: torch.device) -> Hardware:
        """Look at a device; for a GPU that makes a CUDA context."""
        if device.type != "cuda":
            return Hardware(device.type)
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        major, _ = torch.cuda.get_device_capability(device)
        return Hardware("cuda", native, major >= AMPERE, torch.cuda.get_device_name(device))


def resolved(
    conf: TrainerConf,
    own: MachineConf,
    device: torch.device,
    refused: Mapping[str, str] | None = None,
) -> TrainerConf:
    """Return a run's trainer as it is carried out on a silo's device: `own` are the silo's settings.

    `refused` are the precisions that the run's algorithm does not allow, with the reason. Raises
    SiloError MDW-363.
    """
    return resolved_on(conf, own, Hardware.of(device), refused or {})


def resolved_on(
    conf: TrainerConf, own: MachineConf, hardware: Hardware, refused: Mapping[str, str]
) -> TrainerConf:
    """Return what `resolved` does, on hardware that was looked at; pure."""
    said = {f.name: getattr(own, f.name) for f in dataclasses.fields(own)}
    merged = dataclasses.replace(conf, **{k: v for k, v in said.items() if v is not None})
    precision = merged.precision
    if precision == "auto":
        precision = automatic(hardware, refused)
    _check(precision, hardware, refused, own)
    if precision == "tf32" and not hardware.tf32:
        # A device without it computes fp32 as it stores it, and that is what is reported.
        precision = "fp32"
    last = merged.channels_last
    if last is None:
        # Nearly twice as fast there (docs/benchmarks.md); elsewhere it gains little or nothing.
        last = hardware.kind == "cuda" and precision in ("bf16", "fp16")
    strict = merged.deterministic
    if strict == "auto" and hardware.kind != "cuda":
        # A GPU has no deterministic form of some operations; there it stays to be graded.
        strict = "true"
    return dataclasses.replace(
        merged, precision=precision, deterministic=strict, channels_last=last
    )


def for_scoring(conf: TrainerConf) -> TrainerConf:
    """Return the trainer with which the server computes itself: whatever a run says of the silos'
    machines is not about the server's, where bf16 may be imitated and a compiler may be missing.
    """
    return dataclasses.replace(
        conf,
        device="auto",
        precision="fp32",
        compile="off",
        channels_last=False,
        deterministic="auto",
        loader_workers=min(conf.loader_workers, capacity.cores()),
        keep_on_device=True,
    )


def computed(
    conf: TrainerConf, device: torch.device, irreproducible: Sequence[str] = ()
) -> dict[str, str]:
    """Return what the server is told of how a silo computed, by the names of
    `strategies.wire.software.Software`; `conf` is what `resolved` gave, `irreproducible` names the
    operations that do not give the same bits each time.
    """
    hardware = Hardware.of(device)
    return {
        "device": str(device) + masked(device),
        "card": hardware.name,
        "precision": conf.precision,
        "compiled": "" if conf.compile == "off" else conf.compile,
        "deterministic": conf.deterministic,
        "irreproducible": ", ".join(irreproducible),
    }


def automatic(hardware: Hardware, refused: Collection[str]) -> str:
    """Return what `trainer.precision=auto` is on a device: fp32 anywhere but on a CUDA GPU, where it
    is bf16, or fp16 if the GPU has no bf16, or fp32 where the algorithm allows neither.
    """
    if hardware.kind != "cuda":
        return "fp32"
    possible = ("bf16", "fp16") if hardware.bf16 else ("fp16",)
    return next((one for one in possible if one not in refused), "fp32")


def _check(
    precision: str, hardware: Hardware, refused: Mapping[str, str], own: MachineConf
) -> None:
    key = "the silo's machine.precision" if own.precision else "trainer.precision"
    if precision in refused:
        raise SiloError(
            "MDW-363",
            f"{key}={precision} can't be trained in here: {refused[precision]}.",
            "Take auto, bf16 or fp32.",
            {"precision": precision},
        )
    if precision == "bf16" and not hardware.bf16:
        raise SiloError(
            "MDW-363",
            f"{key}=bf16, and {hardware.name or 'this GPU'} does not compute in bf16: it would only"
            " imitate it, many times slower.",
            "Take trainer.precision=auto, which is fp16 there, or let the silo's owner set"
            " machine.precision.",
            {"precision": precision},
        )
