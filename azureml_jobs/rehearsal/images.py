"""Whether a job's image could be built: a resolver's dry run for the Python of its base.

Nothing is built here. A job whose packages can't be had for its declared base ends as it does on
Azure, before it runs; any other runs in the interpreter that started the rehearsal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

LOG: Final = "azureml-logs/20_image_build_log.txt"


@dataclass(frozen=True)
class Build:
    """What building an image came to: its log, and whether there is an image."""

    log: str
    failed: bool = False


class Images(Protocol):
    """Builds the image of a job; `unknown` are the environments of which nothing could be said."""

    unknown: list[str]

    def build(self, environment_id: str) -> Build:
        """Return what became of the image of an environment's version, by its ARM id."""


class AnyImage:
    """Takes every image as it is: for clouds in which nobody asks."""

    def __init__(self) -> None:
        self.unknown: list[str] = []

    def build(self, environment_id: str) -> Build:
        """See `Images`."""
        return Build(log="")


def failure_message(environment_id: str) -> str:
    """Return what run history says of a job whose image could not be built."""
    name, _, version = environment_id.partition("/environments/")[2].partition("/versions/")
    return (
        f"Image build failed. For more details, check log file {LOG}."
        f" Environment: {name}, version {version}."
    )
