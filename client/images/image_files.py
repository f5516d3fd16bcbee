"""Which files of a folder are a set's images, and what each is labelled.

    root/CLASS/x.jpg             a folder for each class
    root/train/CLASS/x.jpg       the same, with `val` and `test` beside it: a test set kept apart
    root/labels.csv, root/x.jpg  a table of file names and labels (`task.labels_file`)

Files come in the order of their names' bytes, classes in that of the contract: the same on every
machine.

    MDW-246 a folder that is not laid out as the contract says
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as field_of
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from client.formats.file_tree import files_under
from client.formats.image_file import SUFFIXES
from client.formats.table_file import read_table_file
from client.tables.encoding import column_values, texts_of
from conf.border import field
from conf.errors import DataError
from conf.schema import DataConf
from conf.schema.table_columns import CATEGORY, FLAG, ColumnConf

log = logging.getLogger(__name__)

TRAIN: Final = "train"
TEST: Final = "test"
VALIDATION: Final = "val"


@dataclass(frozen=True)
class ImageFiles:
    """Files of one folder, and the class of each (n), or its flags (n, flags)."""

    root: Path
    files: list[Path]
    labels: NDArray[np.int64]
    columns: dict[str, NDArray[np.str_]] = field_of(default_factory=dict)
    """Of each, what the table of labels says in the columns that `data.group`, `data.column` and
    `task.subgroup` name.
    """

    @property
    def names(self) -> NDArray[np.str_]:
        """Their names, of which `data.group` may find a part."""
        return np.array([path.name for path in self.files])

    def without(self, left_out: NDArray[np.bool_]) -> ImageFiles:
        """Return the files but for some of them."""
        kept = ~left_out
        files = [path for path, keep in zip(self.files, kept, strict=True) if keep]
        columns = {name: values[kept] for name, values in self.columns.items()}
        return ImageFiles(self.root, files, self.labels[kept], columns)


def by_folder(root: Path, classes: Sequence[str]) -> ImageFiles:
    """Return the images of a folder for each class.

    Raises DataError MDW-246 for a folder that is no class's, or where there is no image at all.
    """
    found = []
    for folder in _folders(root):
        if folder.name not in classes:
            log.warning("%s is a folder of no class; the classes are %s.", folder, list(classes))
            raise _laid_out(root, "a folder for each class", "another folder", field(folder.name))
        images = _images_under(folder)
        found += [(path, classes.index(folder.name)) for path in images]
    if not found:
        raise _laid_out(root, "images in a folder for each class", "no image")
    found.sort(key=lambda one: one[0].relative_to(root).as_posix().encode())
    labels = np.array([label for _, label in found], np.int64)
    return ImageFiles(root, [path for path, _ in found], labels)


def unlabelled(root: Path) -> ImageFiles:
    """Return all images at or under a root, whatever its layout; raises DataError MDW-246 without
    any.
    """
    paths = [root] if root.is_file() else _images_under(root)
    if not paths:
        raise _laid_out(root, "images", "no image")
    paths.sort(key=lambda path: path.as_posix().encode())
    return ImageFiles(root, paths, np.zeros(len(paths), np.int64))


@dataclass(frozen=True)
class LabelTable:
    """A table of file names and labels: its name in the folder, its columns, and what its texts mean."""

    name: str
    file: str
    label: str
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    map: Sequence[Mapping[str, str]]
    subgroup: str = ""


def by_table(root: Path, said: LabelTable, conf: DataConf) -> ImageFiles:
    """Return the images that a table of file names and labels lists, in its order.

    Raises DataError: MDW-246 for a file that is not there or outside the folder, or a label that is
    none of the contract's; MDW-240 or 241 for a file that is no table.
    """
    path = root / said.name
    if not path.is_file():
        raise _laid_out(root, f"the file {field(said.name)}", "none of that name")
    table = read_table_file(path, conf).table
    wanted = [said.label] if said.label else list(said.labels)
    groups = [said.subgroup] if said.subgroup else []
    for column in (said.file, *wanted, *groups):
        if column not in table.column_names:
            raise _laid_out(path, f"a column {field(column)}", "none of that name")
    files = [_inside(root, cell) for cell in table[said.file].to_pylist()]
    values = [_labels(path, table[column], column, said) for column in wanted]
    beside = {conf.group, conf.column, *groups} & set(table.column_names)
    columns = {str(one): np.array(table[one].to_pylist(), dtype=str) for one in beside}
    return ImageFiles(root, files, values[0] if said.label else np.stack(values, axis=1), columns)


def parts_of(root: Path) -> dict[str, Path]:
    """Return the folders train, val and test of a root that is laid out so; empty for any other."""
    found = {name: root / name for name in (TRAIN, VALIDATION, TEST) if (root / name).is_dir()}
    return found if TRAIN in found else {}


def class_folders(root: Path) -> list[str]:
    """Return the names of the folders with images, in the order of their bytes: the classes of a
    simulation that names none.
    """
    within = parts_of(root).get(TRAIN, root)
    return [folder.name for folder in _folders(within)]


def _folders(root: Path) -> list[Path]:
    try:
        folders = [path for path in root.iterdir() if path.is_dir() and path.name[0] not in "._"]
    except OSError as error:
        raise _closed(error, root) from error
    return sorted(folders, key=lambda path: path.name.encode())


def _images_under(folder: Path) -> list[Path]:
    try:
        return [path for path in files_under(folder) if _is_image(path)]
    except OSError as error:
        raise _closed(error, folder) from error


def _closed(error: OSError, root: Path) -> DataError:
    why = error.strerror or type(error).__name__
    return _laid_out(Path(error.filename or root), "a folder that may be read", field(why))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.name[0] != "."


def _inside(root: Path, name: object) -> Path:
    """Return a file of the folder by the name that a table has for it."""
    relative = Path(str(name))
    path = root / relative
    if relative.is_absolute() or ".." in relative.parts or not path.is_file():
        log.warning("%s: the table lists a file that is not in the folder: %s", root, name)
        raise _laid_out(root, "each listed file", "one that is not there")
    return path


def _labels(path: Path, cells: pa.ChunkedArray, name: str, said: LabelTable) -> NDArray[np.int64]:
    kind = CATEGORY if said.label else FLAG
    classes = list(said.classes) if said.label else []
    column = ColumnConf(name, kind, values=classes, map=[dict(one) for one in said.map])
    texts, missing = texts_of(cells.combine_chunks())
    values, faults = column_values(texts, missing, column, ".")
    wrong = [fault.found for fault in faults] + (["missing"] if missing.any() else [])
    if wrong:
        log.warning("%s: the label %s is %s in some rows.", path, name, wrong[0])
        raise _laid_out(path, "a label of the contract", wrong[0], field(name))
    return values.astype(np.int64)


def _laid_out(where: Path, expected: str, found: str, column: str = "") -> DataError:
    told: dict[str, str | int] = {"expected": expected, "found": found}
    if column:
        told["column"] = column
    return DataError(
        "MDW-246",
        f"{where}: the contract expects {expected}; there is {found}.",
        "Lay the files out as docs/images.md says, or correct task.classes.",
        told,
    )
