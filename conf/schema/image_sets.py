"""The contract of a set of images: their size and classes, and what is drawn anew in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from conf.fields import entries, number, one_of, text, value
from conf.schema.table_columns import COLUMN, COLUMN_IN_WORDS
from conf.schema.tasks import TaskConf

CLASS: Final = r"[^\x00-\x1f/\\]{1,100}"
MOST_CLASSES: Final = 10_000
MOST_PIXELS: Final = 4096
"""A side."""


@dataclass
class ImagesConf(TaskConf):
    """Images in files: a folder for each class, or a table of file names and labels."""

    name: str = value("images", help="the task")
    dataset: str = text(
        "", r"[\w .,-]{0,60}", "a short name", help="what the data is called, in outputs"
    )
    classes: list[str] = entries(
        list,
        pattern=CLASS,
        wanted="a folder's name",
        entries_at_most=MOST_CLASSES,
        help="the classes in order, each a folder's name or a label; empty = those of the folders, "
        "in a simulation",
    )
    files: str = one_of(
        "images",
        "idx",
        "cifar",
        help="what data.root holds: a file for each image, idx files as of MNIST, or CIFAR-10's "
        "binary files",
    )
    labels_file: str = text(
        "",
        r"[^\x00-\x1f/\\]{0,100}",
        "a file's name",
        help="a CSV or Parquet file in data.root with a column `file` and the labels, in the place "
        "of a folder for each class",
    )
    label: str = text(
        "", rf"({COLUMN})?", COLUMN_IN_WORDS, help="its column with the class of each image"
    )
    labels: list[str] = entries(
        list,
        pattern=COLUMN,
        wanted=COLUMN_IN_WORDS,
        entries_at_most=1000,
        help="its columns with several flags of each image, in the place of one class",
    )
    label_map: list[dict[str, str]] = entries(
        list,
        entries_at_most=MOST_CLASSES,
        help="of that column, what other texts mean: [{text: '1.0', means: defective}]",
    )
    file_column: str = text(
        "file", COLUMN, COLUMN_IN_WORDS, help="its column with the name of each image's file"
    )
    height: int = number(224, at_least=1, at_most=MOST_PIXELS, help="pixels")
    width: int = number(224, at_least=1, at_most=MOST_PIXELS, help="pixels")
    channels: int = number(
        3, at_least=1, at_most=3, help="channels of an image: 1 = grey, 3 = colour"
    )
    resize: bool = value(
        True, help="resize images of another size; false = they break the contract"
    )
    scale: str = one_of(
        "standard",
        "imagenet",
        "half",
        help="pixels as the model gets them: (x - mean) / deviation by channel over all silos, "
        "ImageNet's numbers, or -1 to 1",
    )
    class_at_least: int = number(
        0, at_least=0, at_most=10**9, help="fewest images that a silo has of each class"
    )
    balanced: bool = value(
        False,
        help="weigh the classes in the loss by their inverse frequency over all silos",
        also=("class_weight", "class_weights"),
    )
    augment: list[dict[str, Any]] = entries(
        list,
        entries_at_most=20,
        help="torchvision's transforms for training alone, such as {name: RandomHorizontalFlip}",
        also=("augmentation", "transforms"),
    )
    headline: str = text(
        "",
        r"[a-z0-9_]{0,40}",
        "the name of a metric",
        help="the metric that comes first, also for run.keep=best; empty = the task's own",
    )
    subgroup: str = text(
        "",
        rf"({COLUMN})?",
        COLUMN_IN_WORDS,
        help="a column of labels_file: metrics for each of task.subgroup_values too; empty = none",
        also=("sensitive_feature", "protected"),
    )
    subgroup_values: list[str] = entries(
        list,
        pattern=CLASS,
        wanted="a value of that column",
        entries_at_most=100,
        help="its values in order; other ones are in no group",
    )
