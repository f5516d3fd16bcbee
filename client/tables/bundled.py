"""A table that scikit-learn brings: breast cancer, 569 rows (Wolberg et al. 1995, UCI).

Read from its file as its own loader does, without the second that importing it takes; the file has
no names of columns, which are those of the contract in their order, the label last.
"""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Final

import pyarrow as pa

from client.formats.table_file import TableFile
from client.tables.contract import TableContract, wrong
from client.tables.reading import Table, of_files
from conf.schema import DataConf

FILES: Final = {"breast_cancer": "breast_cancer.csv"}


def bundled_table(name: str, contract: TableContract, conf: DataConf) -> Table:
    """Return all rows of a bundled table.

    Raises ConfigError MDW-186 where the contract has not as many columns, DataError MDW-242 where a
    value breaks it.
    """
    package = importlib.util.find_spec("sklearn")
    assert package is not None and package.submodule_search_locations is not None
    file = Path(package.submodule_search_locations[0]) / "datasets/data" / FILES[name]
    with file.open(newline="") as opened:
        (_, width, *classes), *rows = csv.reader(opened)
    names = [column.name for column in (*contract.inputs, *contract.labels)]
    if len(names) != int(width) + 1:
        raise wrong(f"{name} has {int(width) + 1} columns, not {len(names)}")
    columns = [list(cells) for cells in zip(*rows, strict=True)]
    columns[-1] = [classes[int(label)] for label in columns[-1]]
    table = pa.table(dict(zip(names, columns, strict=True)))
    return of_files([TableFile(file, table, 2)], file, contract, conf)
