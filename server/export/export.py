"""`meadow export`: a finished run's model as files that need no Meadow.

What was written is read again and compared with the run's own model, on made-up examples and on
those of `data.root`, before it is said to be there.

    MDW-258 an exported file that gives other outputs
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from client.tasks import task_of
from client.tasks.base import Task, root_of
from conf.errors import DataError
from conf.files.whole import make_folder
from conf.schema import DataConf
from server.export.exported_model import ExportedModel, sample
from server.export.formats import CONTRACT, FORMATS
from server.export.model_contract import contract_of
from server.export.traced import traced
from server.run.files import write_atomic
from server.run.result import RunResult
from server.run.run_folder import find
from server.scoring.evaluation import conf_of, load_model

AT_ONCE: Final = 256
NEAR: Final = 1e-4
"""Between two programs that add float32 numbers in another order, as a share of the largest output."""


def export(run: str, form: str, output: Path | None, data: DataConf) -> tuple[Path, int]:
    """Write a finished run's model in a format; return the folder, and on how many examples its
    outputs were compared.

    Raises DataError: MDW-257 to 259, and what reading `data.root` raises.
    """
    folder = find(run)
    task = task_of(conf_of(folder).task)
    model = ExportedModel(task, load_model(folder.path)).eval()
    into = output or folder.path / "export" / form
    made_up = sample(task)
    program = traced(model, made_up)
    make_folder(into)
    contract = contract_of(task, RunResult.read(folder.path))
    write_atomic(into / CONTRACT, json.dumps(contract, indent=1))
    run_file = FORMATS[form](program, contract, into)
    compared = 0
    for examples in (made_up, *_real(task, data)):
        with torch.inference_mode():
            wanted = model(examples)
            found = run_file(examples)
        _check_same(form, wanted, found)
        compared += len(examples)
    return into, compared


def _real(task: Task, data: DataConf) -> Iterator[Tensor]:
    read = getattr(task, "unlabelled", None)
    if data.root is None or read is None:
        return
    _, examples = read(root_of(data), data)
    yield from examples.split(AT_ONCE)


def _check_same(form: str, wanted: Tensor, found: Tensor) -> None:
    room = NEAR * max(float(wanted.abs().max()), 1.0) if wanted.numel() else 0.0
    if found.shape == wanted.shape and torch.allclose(found, wanted, rtol=0, atol=room):
        return
    apart = "another shape"
    if found.shape == wanted.shape:
        apart = f"outputs that are up to {float((found - wanted).abs().max()):.3g} away"
    raise DataError(
        "MDW-258",
        f"format={form}: the exported file gives {apart}.",
        "Do not use it; export another format, and report it with the model's class.",
    )
