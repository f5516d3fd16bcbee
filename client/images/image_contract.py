"""What the contract of a set of images says, and what in it contradicts itself.

MDW-186 a contract that can't be meant
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from client.images.augmentation import Transform
from client.images.image_files import LabelTable
from client.tables.contract import meanings
from conf.errors import ConfigError

IMAGES: Final = "images"
MOST_RANKED: Final = 20
"""Classes of which AUROC and AUPRC are taken."""


class Look(NamedTuple):
    """How images are read and made ready for a model."""

    shape: tuple[int, int, int]
    resize: bool
    scale: str
    balanced: bool
    augment: Transform | None


class Labelling(NamedTuple):
    """Where images and labels are: in folders of a class, in a table, or packed in a few files."""

    files: str
    table: LabelTable
    class_at_least: int

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in their order, or the flags."""
        return self.table.labels or self.table.classes


def check_contract(where: Labelling, channels: int) -> None:
    """Raise ConfigError MDW-186 where labels, files and classes contradict each other."""
    if channels == 2:
        raise _wrong("images have 1 channel or 3", "Correct task.channels.")
    table = where.table
    meant = set(meanings(table.map, "task.label_map").values()) - set(table.classes)
    if meant:
        raise _wrong(f"task.label_map means {min(meant)!r}, which is no class", "Correct it.")
    if bool(table.name) != bool(table.label or table.labels) or (table.label and table.labels):
        raise _wrong(
            "task.labels_file needs task.label, or flags in task.labels",
            "Name the column, or leave labels_file out.",
        )
    if table.name and where.files != IMAGES:
        raise _wrong(f"task.files={where.files} has labels of its own", "Leave labels_file out.")
    if not table.labels and len(where.classes) < 2:
        raise _wrong("its classes are not named", "Set task.classes=[...], in their order.")


def check_groups(table: LabelTable, values: Sequence[str]) -> None:
    """Raise ConfigError MDW-186 where groups are named by half, or can't be told apart."""
    if not table.subgroup and not values:
        return
    if not table.subgroup or not values:
        raise _wrong(
            "task.subgroup names a column and task.subgroup_values its values", "Set both, or none."
        )
    if not table.label or len(table.classes) > MOST_RANKED:
        raise _wrong(
            f"task.subgroup needs task.labels_file and task.label, and {MOST_RANKED} classes at most",
            "Leave task.subgroup out.",
        )
    if len(set(values)) < len(values):
        raise _wrong("task.subgroup_values has a value twice", "Correct it.")


def _wrong(what: str, hint: str) -> ConfigError:
    return ConfigError("MDW-186", f"The contract of the images: {what}.", hint)
