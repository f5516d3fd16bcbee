"""A simulation's contract where none is written: drafted of the data, all of which is on this machine.

The run's `config.yaml` then has it. A federation needs one that its owners have read.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from client.images.image_files import class_folders
from client.tables.draft import draft, plain
from client.tasks.base import root_of
from conf.errors import DataError
from conf.schema import Conf, ImagesConf, TableConf


def filled_in(conf: Conf) -> Conf:
    """Return a simulation's configuration with the columns of a table or the classes of images, where
    its contract has none; any other as it is.

    Raises DataError: MDW-200 without data, and what `client.tables.draft.draft` raises.
    """
    task = conf.task
    if isinstance(task, TableConf) and not task.columns:
        drafted = draft(_root(conf), conf.data, [task.label, *task.labels])
        columns = [plain(column) for column in drafted.columns]
        return replace(conf, task=replace(task, columns=columns))
    if isinstance(task, ImagesConf) and not (task.classes or task.labels_file or task.labels):
        return replace(conf, task=replace(task, classes=class_folders(_root(conf))))
    return conf


def _root(conf: Conf) -> Path:
    if conf.data.root is None:
        raise DataError(
            "MDW-200",
            f"task={conf.task.name} reads its examples from data.root, which is not set.",
            "Set data.root to their file or folder.",
        )
    return root_of(conf.data)
