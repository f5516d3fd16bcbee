"""`meadow data contract`: draft a table's contract from a silo's own files, for their owner to read.

Nothing leaves this machine: the file is the owner's to correct, and to share or not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from azureml_jobs.cli.arguments import Arguments
from azureml_jobs.cli.drafted_file import write_drafted
from conf.compose import compose
from conf.files.whole import make_folder

HEAD: Final = """# The contract of a table, drafted from the files of one silo: read each line before you share it.
# It says what the data of every silo must be, and holds nothing else of it:
#   low, high   limits of a number, drafted from the smallest and largest value, rounded outwards
#   values      of a category, those that stand in at least {fewest} rows; other: true takes the rest
# A column that has no line here is not read. Use: meadow simulate task={name} --config-dir FOLDER,
# with this file as FOLDER/task/{name}.yaml.
"""


def draft_contract(arguments: Arguments) -> int:
    """Write the drafted contract; raises ConfigError MDW-127 where the file is there, and what
    `client.tables.draft.draft` raises.
    """
    from client.tables.draft import FEWEST_ROWS, draft, plain
    from client.tasks.base import root_of

    conf = compose(["task=table", *arguments.rest])
    label = arguments.get("label")
    file = Path(arguments.get("file", "contract.yaml"))
    drafted = draft(root_of(conf.data), conf.data, [label])
    lines = [HEAD.format(fewest=FEWEST_ROWS, name=file.stem)]
    lines += ["defaults:", "  - table", "  - _self_", "", f"label: {json.dumps(label)}", "columns:"]
    # JSON is YAML, and quotes every text: `1e-3` or `on` stays what it is.
    lines += [f"  - {json.dumps(plain(column), ensure_ascii=False)}" for column in drafted.columns]
    lines += [f"# left out: {name!r}, {why}" for name, why in drafted.left_out.items()]
    if not file.parent.exists():
        # FOLDER/task/, where it is found by its name.
        make_folder(file.parent)
    write_drafted(file, lines)
    left = f", {len(drafted.left_out)} left out" if drafted.left_out else ""
    print(f"wrote {file}: {len(drafted.columns)} columns{left}; read it before you share it")
    return 0
