"""Images in files; `task.classes` or `task.labels` say what is told apart, without code.

The set is held in memory as bytes; the model's first layer scales it (`client.images.pixel_layer`).
Where a folder has `train` and `test`, the latter is kept apart: of a set that silos share it is the
central test set, of a silo's own it is the silo's test split.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from client.formats.image_file import read_image
from client.formats.room import check_room
from client.groups import FILE, Columns
from client.images.augmentation import augmentation
from client.images.image_contract import (
    IMAGES,
    MOST_RANKED,
    Labelling,
    Look,
    check_contract,
    check_groups,
)
from client.images.image_files import (
    TEST,
    TRAIN,
    VALIDATION,
    ImageFiles,
    LabelTable,
    by_folder,
    by_table,
    parts_of,
    unlabelled,
)
from client.images.packed_files import has_test, packed
from client.images.pixel_layer import PixelLayer, specs_of, sums_of
from client.leading_metric import lead_with
from client.partition import Indices
from client.tasks.base import OWN, Contract, Data, SumSpec, Task, root_of
from client.tasks.kinds.arrays import Arrays, ArrayTask
from client.tasks.kinds.classification import RANKED, Classification, check_classes
from client.tasks.kinds.multi_label import MultiLabel
from client.tasks.kinds.subgrouped import SubgroupedClassification
from conf.errors import DataError
from conf.schema import DataConf, Silo

log = logging.getLogger(__name__)


def build(
    classes: Sequence[str] = (),
    files: str = "images",
    labels_file: str = "",
    label: str = "",
    labels: Sequence[str] = (),
    label_map: Sequence[Mapping[str, str]] = (),
    file_column: str = "file",
    height: int = 224,
    width: int = 224,
    channels: int = 3,
    resize: bool = True,
    scale: str = "standard",
    class_at_least: int = 0,
    balanced: bool = False,
    augment: Sequence[Mapping[str, Any]] = (),
    dataset: str = "",
    headline: str = "",
    subgroup: str = "",
    subgroup_values: Sequence[str] = (),
) -> Task:
    """Return the task that a contract says; the arguments are those of `conf.schema.ImagesConf`.

    Raises ConfigError: MDW-186 for a contract that can't be meant, MDW-188 for a transform that is
    not allowed.
    """
    table = LabelTable(
        labels_file, file_column, label, tuple(labels), tuple(classes), tuple(label_map), subgroup
    )
    where = Labelling(files, table, class_at_least)
    check_contract(where, channels)
    check_groups(table, subgroup_values)
    transform = augmentation(augment, (height, width))
    look = Look((channels, height, width), resize, scale, balanced, transform)
    task: Task = FlagsOfImage(where, look) if labels else ClassOfImage(where, look, subgroup_values)
    lead_with(task, headline)
    return task


class ImageFilesTask(ArrayTask):
    """What sets of images have in common: files read once into memory, as bytes."""

    def __init__(self, where: Labelling, look: Look) -> None:
        self._where = where
        self._look = look
        self._names: NDArray[np.str_] = np.array([], str)
        self._beside: dict[str, NDArray[np.str_]] = {}
        self.contract = Contract(look.shape, where.classes)

    def read_as(self, root: Path, data: DataConf) -> Arrays:
        """Return the images to train and validate on; see `docs/images.md` for the layout.

        Raises DataError MDW-245 to 249.
        """
        if self._where.files != IMAGES:
            return self._packed(root, TRAIN)
        folders = parts_of(root)
        roots = [folders[name] for name in (TRAIN, VALIDATION) if name in folders] or [root]
        parts, names = [], []
        for one in roots:
            read, found = self._read(one, data)
            parts.append(read)
            names.append(found.names)
        # A table of labels lies in one root.
        self._beside = found.columns
        self._names = np.concatenate(names)
        examples = tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        self._check_counts(root, examples[1])
        return examples

    def unlabelled(self, root: Path, data: DataConf) -> tuple[list[str], Tensor]:
        """Return all images under a folder, whatever its layout, with their names in it; raises
        DataError as `read_as` does.
        """
        listed = unlabelled(root)
        examples, listed = self._decoded(listed, data)
        names = [path.relative_to(root).as_posix() for path in listed.files]
        return names, torch.from_numpy(examples[0])

    def test(self, data: DataConf) -> Dataset[Any] | None:
        """Return the images of a `test` folder that the silos share; None where they are a silo's
        own.
        """
        if data.partition == OWN or data.root is None:
            return None
        root = root_of(data)
        if self._where.files != IMAGES:
            there = has_test(root, self._where.files)
            return self.dataset(self._packed(root, TEST), slice(None)) if there else None
        folder = parts_of(root).get(TEST)
        if folder is None:
            return None
        examples, _ = self._read(folder, data)
        return self.dataset(examples, slice(None))

    def data(self, silo: Silo) -> Data:
        """Return a silo's splits; where its own folder has a `test`, all of the rest is for training
        and validation.
        """
        own = super().data(silo)
        if silo.data.partition != OWN:
            return own
        folder = parts_of(root_of(silo.data)).get(TEST)
        if folder is None:
            return own
        examples, _ = self._read(folder, silo.data)
        test = self.dataset(examples, slice(None))
        # What the split had taken for a test is trained on: the owner's own test set replaces it.
        train = [*_tensors(own.train)], [*_tensors(own.test)]
        joined = TensorDataset(*(torch.cat(pair) for pair in zip(*train, strict=True)))
        labels = joined.tensors[1].numpy() if own.labels is not None else None
        return Data(joined, own.validation, test, labels, self._joined_groups(silo))

    def _joined_groups(self, silo: Silo) -> Indices | None:
        """Return the group of each example that is for training or the test, in this order."""
        count, labels = self._known(self._source(silo.data), silo.data)
        groups = self.groups(silo.data, count)
        if groups is None:
            return None
        splits = self._splits(silo, count, labels, groups)
        joined: Indices = groups[np.concatenate([splits.train, splits.test])]
        return joined

    def columns_as(self, data: DataConf) -> Columns:
        """Return the names of the files, for a pattern that finds what belongs together, and the
        columns of the table of labels that are asked for.
        """
        return {FILE: self._names, **self._beside}

    def checked(self, examples: Arrays, where: object) -> Arrays:
        """Return images as they are: they were made to keep the contract when they were read."""
        return examples

    def dataset(self, examples: Arrays, which: Indices | slice) -> TensorDataset:
        """Return some of the images as bytes, their labels, and where groups are told apart theirs."""
        return TensorDataset(*(torch.from_numpy(np.array(one[which])) for one in examples))

    def input_layer(self) -> PixelLayer:
        """Return the layer that scales pixels, and draws anew what is trained on."""
        look = self._look
        return PixelLayer(look.shape, look.scale, look.augment, self._weighed)

    def statistics(self, data: Data) -> Mapping[str, Tensor]:
        """Return what a silo's training images add to the statistics."""
        images, labels = _tensors(data.train)[:2]
        return sums_of(images, labels if self._weighed else None, self._weighed)

    def statistic_specs(self) -> Mapping[str, SumSpec]:
        """Return the form of the statistics."""
        return specs_of(self._look.shape[0], self._weighed)

    @property
    def _weighed(self) -> int:
        return len(self._where.table.classes) if self._look.balanced else 0

    def _packed(self, root: Path, part: str) -> Arrays:
        images, labels = packed(root, self._where.files, part, self._look.shape)
        check_classes(labels, len(self._where.classes), root)
        self._check_counts(root, labels)
        return images, labels

    def _listed(self, root: Path, data: DataConf) -> ImageFiles:
        table = self._where.table
        return by_table(root, table, data) if table.name else by_folder(root, table.classes)

    def _read(self, root: Path, data: DataConf) -> tuple[Arrays, ImageFiles]:
        return self._decoded(self._listed(root, data), data)

    def _decoded(self, listed: ImageFiles, data: DataConf) -> tuple[Arrays, ImageFiles]:
        """Return the images and targets of listed files, and those of the list that could be read."""
        channels, height, width = self._look.shape
        size = len(listed.files) * channels * height * width
        check_room(listed.root, size, f"{len(listed.files):,} images")
        images = np.empty((len(listed.files), channels, height, width), np.uint8)
        good = np.ones(len(listed.files), bool)
        for index, path in enumerate(listed.files):
            try:
                images[index] = read_image(path, channels, height, width, resize=self._look.resize)
            except DataError as error:
                if data.on_error != "skip" or error.code == "MDW-247":
                    raise
                log.warning("left out: %s", error)
                good[index] = False
        read = listed if good.all() else listed.without(~good)
        return (images[good], self._targets(read.labels), *self._groups(read)), read

    def _targets(self, labels: NDArray[np.int64]) -> NDArray[Any]:
        return labels

    def _groups(self, listed: ImageFiles) -> list[NDArray[np.float32]]:
        """Return the group of each image, where groups are told apart."""
        return []

    def _check_counts(self, root: Path, labels: NDArray[Any]) -> None:
        least = self._where.class_at_least
        if self._where.table.labels or least == 0:
            return
        counts = np.bincount(labels, minlength=len(self._where.classes))
        few = [name for name, n in zip(self._where.classes, counts, strict=True) if n < least]
        if few:
            raise DataError(
                "MDW-249",
                f"{root} has fewer than {least} images of {', '.join(few)}.",
                "Add images, or lower task.class_at_least.",
                {"expected": f"at least {least} images of each class", "found": "fewer"},
            )


class ClassOfImage(ImageFilesTask, SubgroupedClassification):
    """Which class an image is of; with groups, counted for each of them as well."""

    ranked = True
    shown = RANKED

    def __init__(self, where: Labelling, look: Look, groups: Sequence[str] = ()) -> None:
        super().__init__(where, look)
        self.balanced = look.balanced
        self._group_names = list(groups)
        # A histogram of scores for each of very many classes is more than an update.
        if len(where.classes) > MOST_RANKED:
            self.ranked = False  # type: ignore[misc]
            self.shown = Classification.shown  # type: ignore[misc]
        if groups:
            self.tell_groups(groups)

    def groups_in(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the groups, which lie beside images and labels (n)."""
        return batch[2]

    def made_up(self) -> TensorDataset:
        """Return images of zeros; see `Task.made_up`."""
        made = super().made_up()
        if not self._group_names:
            return made
        return TensorDataset(*made.tensors, torch.zeros(len(made)))

    def _groups(self, listed: ImageFiles) -> list[NDArray[np.float32]]:
        if not self._group_names:
            return []
        places = {name: float(place) for place, name in enumerate(self._group_names)}
        # Images that nobody labelled have no columns.
        column = listed.columns.get(self._where.table.subgroup, [""] * len(listed.files))
        return [np.array([places.get(str(one), np.nan) for one in column], np.float32)]


class FlagsOfImage(ImageFilesTask, MultiLabel):
    """Which of several flags hold of an image."""

    def _targets(self, labels: NDArray[np.int64]) -> NDArray[np.float32]:
        return labels.astype(np.float32)


def _tensors(dataset: Dataset[Any]) -> tuple[Tensor, ...]:
    assert isinstance(dataset, TensorDataset)  # of `dataset`
    return dataset.tensors
