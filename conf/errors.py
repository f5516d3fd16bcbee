"""The one error tree: every failure a person meets says what happened, where, and what to do next.

    MeadowError
    ├── ConfigError      MDW-1xx  exit 2    a key, value or group is wrong; nothing was started
    ├── DataError        MDW-2xx  exit 3    data is missing, empty or breaks the task's contract
    ├── SiloError        MDW-3xx  exit 4    a silo refused or failed, and the run can't go on
    ├── RoundError       MDW-4xx  exit 5    a round could not close: too few silos
    ├── CheckpointError  MDW-5xx  exit 6    a checkpoint or a stored run can't be used
    ├── WireError        MDW-6xx  exit 7    a message breaks the contract of the wire
    ├── IdentityError    MDW-7xx  exit 8    a key, certificate or address can't be trusted or used
    ├── AzureError       MDW-8xx  exit 9    a workspace, job or resource of Azure is missing, refused or failed
    └── Interrupted      MDW-900  exit 130  Ctrl-C or SIGTERM; the last checkpoint can be resumed

Each code has a paragraph in docs/errors.md, and a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

Told = str | int
"""A field of an error that another party may be told (`conf.border`)."""


class MeadowError(Exception):
    """A failure with a stable `code`, one sentence of what happened, and a `hint`: what to do next.

    `told` are the fields that another party may read of it: all else stays where it was raised.
    """

    exit_status: ClassVar[int] = 1

    def __init__(
        self, code: str, message: str, hint: str = "", told: Mapping[str, Told] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.told: Mapping[str, Told] = dict(told or {})

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" + (f" {self.hint}" if self.hint else "")

    def __reduce__(
        self,
    ) -> tuple[type[MeadowError], tuple[str, str, str, Mapping[str, Told]]]:
        return type(self), (self.code, self.message, self.hint, self.told)


class ConfigError(MeadowError):
    """A key, value or group of the configuration is wrong."""

    exit_status = 2


class DataError(MeadowError):
    """A silo's data is missing, empty or breaks its task's contract."""

    exit_status = 3


class SiloError(MeadowError):
    """A silo refused or failed in a way that ends the run."""

    exit_status = 4


class RoundError(MeadowError):
    """A round could not close with its quorum."""

    exit_status = 5


class CheckpointError(MeadowError):
    """A checkpoint or a stored run can't be read or continued."""

    exit_status = 6


class WireError(MeadowError):
    """A message breaks the contract of `strategies.wire.protocol`."""

    exit_status = 7


class IdentityError(MeadowError):
    """A key, certificate or address can't be read, trusted or used."""

    exit_status = 8


class AzureError(MeadowError):
    """A workspace, job or other resource of Azure is missing, refused or failed."""

    exit_status = 9


class Interrupted(MeadowError):
    """The user or the platform asked the run to stop; it can be resumed."""

    exit_status = 130
