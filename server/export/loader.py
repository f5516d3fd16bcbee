"""A model that was exported by Meadow: needs torch and safetensors, and Pillow for images.

    python model.py rows.csv            what the model says of each row, as CSV
    python model.py a.png b.png         of each image
    import model; model.load()          the model itself, called with a tensor of examples

What its inputs and outputs mean is in contract.json beside this file.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

Graph = Callable[[Tensor, Mapping[str, Tensor]], tuple[Tensor]]
HERE = Path(__file__).parent
DATES = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S")
DAY_ZERO = datetime(2000, 1, 1)


class Model:
    """The exported model: its contract, its weights, and what it makes of examples."""

    def __init__(self, folder: Path) -> None:
        self.contract: dict[str, Any] = json.loads((folder / "contract.json").read_text("utf-8"))
        self.weights = load_file(folder / "model.safetensors")
        # The graph is written below, where a model was exported.
        self.graph: Graph = globals()["graph"]

    def __call__(self, examples: Tensor) -> Tensor:
        """Return the outputs (n, outputs) of examples as they were read (n, ...)."""
        with torch.inference_mode():
            return self.graph(examples, self.weights)[0]

    def rows(self, file: str | Path, delimiter: str = ",") -> Tensor:
        """Return the rows of a CSV as the model takes them (n, columns), NaN where a value is
        missing; raises ValueError for one that breaks the contract.
        """
        with open(file, newline="", encoding="utf-8-sig") as opened:
            lines = list(csv.DictReader(opened, delimiter=delimiter))
        columns = self.contract["input"]["columns"]
        cells = [[self._number(column, line) for column in columns] for line in lines]
        return torch.tensor(cells, dtype=torch.float32).reshape(len(lines), len(columns))

    def image(self, file: str | Path) -> Tensor:
        """Return an image as the model takes it: uint8 (channels, height, width)."""
        import numpy as np
        from PIL import Image

        wanted = self.contract["input"]
        with Image.open(file) as image:
            if image.mode.startswith("I"):
                pixels = torch.tensor(np.asarray(image, np.float32) * (255 / 65535))[:, :, None]
            else:
                grey = image.mode in ("1", "L", "LA")
                plain = (
                    image if image.mode in ("L", "RGB") else image.convert("L" if grey else "RGB")
                )
                pixels = torch.tensor(np.asarray(plain, np.float32))
                pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
        shaped = pixels.movedim(-1, 0).contiguous()
        if len(shaped) < wanted["channels"]:
            shaped = shaped.expand(wanted["channels"], -1, -1).contiguous()
        elif len(shaped) > wanted["channels"]:
            shaped = (shaped * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, True)
        size = (wanted["height"], wanted["width"])
        if tuple(shaped.shape[1:]) != size:
            shaped = torch.nn.functional.interpolate(
                shaped[None], size, mode="bilinear", antialias=True, align_corners=False
            )[0]
        return shaped.round().clamp(0, 255).to(torch.uint8)

    def said(self, outputs: Tensor) -> Iterator[dict[str, Any]]:
        """Yield what the outputs say of each example: `prediction`, and each class's probability
        at the temperature that the run's validation examples chose.
        """
        wanted = self.contract["output"]
        names = wanted["names"]
        if wanted["kind"] == "numbers":
            for row in outputs.flatten(1).tolist():
                yield dict(zip(names, row, strict=True))
            return
        thresholds = wanted["thresholds"]
        cooled = outputs / wanted["temperature"]
        flags = wanted["kind"] == "flags"
        shares = cooled.sigmoid() if flags else cooled.softmax(1)
        for scores, share in zip(outputs, shares.tolist(), strict=True):
            if flags:
                held = [n for n, s in zip(names, scores, strict=True) if s >= thresholds.get(n, 0)]
                prediction = "+".join(held)
            elif len(names) == 2 and names[1] in thresholds:
                prediction = names[int(scores[1] - scores[0] >= thresholds[names[1]])]
            else:
                prediction = names[int(scores.argmax())]
            yield {"prediction": prediction} | dict(zip(names, share, strict=True))

    def _number(self, column: Mapping[str, Any], line: Mapping[str, str | None]) -> float:
        name = column["name"]
        if name not in line:
            raise ValueError(f"there is no column {name!r}")
        text = (line[name] or "").strip()
        text = column["map"].get(text, text)
        if text in self.contract["input"]["missing"]:
            if column["missing"] == "refuse":
                raise ValueError(f"a value is missing in the column {name!r}")
            return math.nan
        try:
            return _KINDS[column["type"]](text, column)
        except ValueError as error:
            raise ValueError(f"the column {name!r} holds {error}") from None


def _number(text: str, column: Mapping[str, Any]) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("text in place of a number") from None
    if not column["low"] <= value <= column["high"]:
        raise ValueError("a number beyond its range")
    return value


def _flag(text: str, column: Mapping[str, Any]) -> float:
    no, yes = column["words"]
    plain = text if column["values"] else text.lower()
    if plain not in no + yes:
        raise ValueError("neither yes nor no")
    return float(plain in yes)


def _category(text: str, column: Mapping[str, Any]) -> float:
    if text in column["values"]:
        return float(column["values"].index(text))
    if not column["other"]:
        raise ValueError("a value that is not listed")
    return float(len(column["values"]))


def _date(text: str, column: Mapping[str, Any]) -> float:
    for form in DATES:
        try:
            since = datetime.strptime(text, form) - DAY_ZERO
        except ValueError:
            continue
        return since.total_seconds() / 86400
    raise ValueError("no date")


_KINDS = {"number": _number, "flag": _flag, "category": _category, "date": _date}


def load(folder: str | Path = HERE) -> Model:
    """Return the model that lies in a folder, by default the one of this file."""
    return Model(Path(folder))


def main(files: list[str]) -> None:
    """Write what the model says of the files to standard output."""
    model = load()
    if model.contract["input"]["kind"] == "rows":
        examples = torch.cat([model.rows(file) for file in files])
        places: list[Any] = list(range(1, len(examples) + 1))
    else:
        examples = torch.stack([model.image(file) for file in files])
        places = list(files)
    writer = csv.writer(sys.stdout)
    for number, said in enumerate(model.said(model(examples))):
        if number == 0:
            writer.writerow(["place", *said])
        writer.writerow([places[number], *said.values()])
