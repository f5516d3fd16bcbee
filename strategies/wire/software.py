"""What a silo says that it runs, and on what: versions, the processor's instructions, the device and
how it computed there, in each reply to `train`.

It explains a difference between two models, and it is what the same bits depend on. What a silo
says is not proven, and is another party's text: names, number and lengths are checked before it is
used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from flwr.app import ConfigRecord

LONGEST: Final = 100
"""Characters of a value."""
MOST: Final = 32
"""Values of a record: more than this release sends, so that a later one may say more."""


@dataclass(frozen=True)
class Software:
    """What one process runs; empty where there is none, or where it can't be found out."""

    python: str = ""
    torch: str = ""
    cuda: str = ""
    """The CUDA that torch was built for."""
    driver: str = ""
    """The version of NVIDIA's driver."""
    cpu: str = ""
    """The instruction set that torch uses on this processor, such as AVX2."""
    machine: str = ""
    """The kind of processor, such as x86_64."""
    meadow: str = ""
    flwr: str = ""
    code: str = ""
    """The digest of the release (`conf.code_digest.release_digest`)."""
    run_code: str = ""
    """That of the run's part of it (`run_digest`): the same where two trees differ in what the run
    does not use.
    """
    device: str = ""
    """What it trained on, as torch calls it: cpu, cuda:0."""
    card: str = ""
    """The GPU's name."""
    precision: str = ""
    """The number format of the training, and below how the model was compiled and how strictly the
    same bits were asked for: what the run's `auto` and the silo's own settings came to.
    """
    compiled: str = ""
    deterministic: str = ""
    irreproducible: str = ""
    """Operations of the training that do not give the same bits each time there, with commas."""
    data: str = ""
    """A keyed fingerprint of the files that it trains on (`client.data_files`): it changes with them
    and says nothing else. Empty in a simulation, and where the data is in no files.
    """

    def to_record(self) -> ConfigRecord:
        """Return it as it travels."""
        return ConfigRecord(dataclasses.asdict(self))

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Software:
        """Return what a record says, without what this release does not know.

        Raises ValueError, in words that hold nothing of the record, for too many values, or one
        that is no short line of plain text.
        """
        if len(record) > MOST:
            raise ValueError(f"it holds {len(record)} values, and may hold {MOST}")
        names = {field.name for field in dataclasses.fields(Software)}
        for value in record.values():
            if not isinstance(value, str) or len(value) > LONGEST or not _plain(value):
                raise ValueError(f"a value is no line of at most {LONGEST} plain characters")
        return Software(**{name: value for name, value in record.items() if name in names})

    def to_json(self) -> dict[str, str]:
        """Return what is known as plain JSON values."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}


def _plain(value: str) -> bool:
    return value.isascii() and value.isprintable()


FOR_THE_BITS: Final = (
    "torch",
    "cuda",
    "cpu",
    "machine",
    "card",
    "precision",
    "compiled",
    "run_code",
)
"""What must be the same at all silos for the same bits; versions of Python, Flower and the driver
need not.
"""


def differences(software: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, list[str]]]:
    """Return what differs of what the bits depend on: by its name, the silos by the value that they
    have.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for name in FOR_THE_BITS:
        silos: dict[str, list[str]] = {}
        for silo, facts in sorted(software.items()):
            silos.setdefault(facts.get(name, ""), []).append(silo)
        if len(silos) > 1:
            found[name] = silos
    return found


def computed_on(facts: Mapping[str, str]) -> str:
    """Return in a few words on what a silo says that it trains, and in which precision: `cpu fp32`;
    empty where it does not say.
    """
    return " ".join(facts[name] for name in ("device", "precision") if facts.get(name))


def by_device(software: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """Return the silos by what they train on, each with the card's name where it has one."""
    found: dict[str, list[str]] = {}
    for silo, facts in sorted(software.items()):
        if on := computed_on(facts):
            card = facts.get("card", "")
            found.setdefault(f"{on} ({card})" if card else on, []).append(silo)
    return found
