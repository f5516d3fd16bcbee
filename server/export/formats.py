"""The formats of an exported model: how its file is written, and how it is run once it is read again.

No file holds a pickle: what torch would add of one is left out, and each archive is looked at.

    MDW-259 a format that is not installed, that its runtime can't run, or that this torch writes as
            a pickle
"""

from __future__ import annotations

import io
import json
import pickletools
import sys
import zipfile
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.export import ExportedProgram

from client.model_state import first_line
from conf.errors import DataError
from server.export import loader
from server.export.model_contract import KEY
from server.export.traced import code_of
from server.run.files import write_atomic

Run = Callable[[Tensor], Tensor]
"""What the exported file makes of examples."""
Contract = dict[str, Any]
CONTRACT: Final = "contract.json"


def onnx(program: ExportedProgram, contract: Contract, folder: Path) -> Run:
    """Write `model.onnx`, with the contract in its metadata; returns what onnxruntime makes of it."""
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(needed) is None:
            raise DataError(
                "MDW-259",
                f"format=onnx: {needed} is not installed.",
                "pip install '.[onnx]' in the folder of Meadow's source, or export another format.",
            )
    made = torch.onnx.export(program, (), dynamo=True, verbose=False)
    assert made is not None  # of `dynamo`
    made.model.metadata_props[KEY] = json.dumps(contract)
    path = folder / "model.onnx"
    write_atomic(path, made.model_proto.SerializeToString())
    try:
        session = import_module("onnxruntime").InferenceSession(
            str(path), providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        # Its own classes are known once it is imported.
        path.unlink()
        raise DataError(
            "MDW-259",
            f"format=onnx: onnxruntime can't run this model on a CPU: {first_line(error)}.",
            "Export format=torch_export or safetensors; onnxruntime has few operations of bfloat16.",
        ) from error
    (taken,) = session.get_inputs()

    def run(examples: Tensor) -> Tensor:
        (found,) = session.run(None, {taken.name: np.ascontiguousarray(examples.numpy())})
        return torch.from_numpy(found)

    return run


def torch_export(program: ExportedProgram, contract: Contract, folder: Path) -> Run:
    """Write `model.pt2`, with the contract among its extra files; returns what torch makes of it."""
    # The examples of the trace would lie there as a pickle.
    program._example_inputs = None
    whole = io.BytesIO()
    torch.export.save(program, whole, extra_files={CONTRACT: json.dumps(contract)})
    if pickled := pickles_in(whole):
        raise DataError(
            "MDW-259",
            f"format=torch_export: torch {torch.__version__} writes {pickled[0]} as a pickle.",
            "Use a newer torch, or export another format.",
        )
    path = folder / "model.pt2"
    write_atomic(path, whole.getvalue())
    read = torch.export.load(path).module()
    return lambda examples: read(examples)


def safetensors(program: ExportedProgram, contract: Contract, folder: Path) -> Run:
    """Write `model.safetensors` and `model.py`, which reads it without Meadow; returns what that
    makes of it.
    """
    code, weights = code_of(program)
    data = save(
        {n: value.contiguous() for n, value in weights.items()}, {KEY: json.dumps(contract)}
    )
    write_atomic(folder / "model.safetensors", data)
    source = Path(loader.__file__).read_text(encoding="utf-8")
    names = "from math import inf, nan  # noqa: E402, F401\nfrom torch import device  # noqa: E402, F401\n"
    start = 'if __name__ == "__main__":\n    main(sys.argv[1:])\n'
    write_atomic(folder / "model.py", f"{source}\n\n{names}\n\n{code}\n\n{start}")
    read = _module(folder / "model.py").load(folder)
    return lambda examples: read(examples)


FORMATS: Final = {"onnx": onnx, "torch_export": torch_export, "safetensors": safetensors}


def pickles_in(file: io.BytesIO | Path) -> list[str]:
    """Return the entries of an archive that are pickles, or archives, in which torch keeps its own."""
    found = []
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            if data.startswith(b"PK\x03\x04") or (data.startswith(b"\x80") and _is_pickle(data)):
                found.append(name)
    return found


def _is_pickle(data: bytes) -> bool:
    """Whether all of this is read as instructions of a pickle; none of them is followed."""
    try:
        for _ in pickletools.genops(data):
            pass
    except ValueError:
        return False
    return True


def _module(path: Path) -> Any:
    spec = spec_from_file_location("meadow_exported_model", path)
    assert spec is not None  # of a file that ends with .py
    assert spec.loader is not None
    module = module_from_spec(spec)
    written = sys.dont_write_bytecode
    # Nothing but what was exported stays beside it.
    sys.dont_write_bytecode = True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = written
    return module
