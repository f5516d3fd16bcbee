"""An exported model needs no Meadow, holds no pickle, and says what the run's model says."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import meadow
from conf.errors import DataError
from conf.schema import DataConf
from server.export.export import export
from server.export.formats import FORMATS, pickles_in
from server.scoring.prediction import predict

QUICK = ["tracking=off", "simulation.workers=0", "federation.size=2", "data=iid", "run.rounds=2"]


def write_rows(file: Path) -> None:
    draw = np.random.default_rng(0)
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["outcome", "age", "colour", "seen", "smokes"])
        for n in range(240):
            age = int(draw.integers(18, 95))
            colour = draw.choice(["red", "green", ""])
            smokes = draw.choice(["yes", "no", ""])
            ill = "ill" if age + 20 * (smokes == "yes") + draw.normal(0, 9) > 65 else "well"
            seen = ["2024-03-05", "2001-12-31 06:30:00", "2024-02-29T23:00:00"][n % 3]
            writer.writerow([ill, "" if n % 17 == 0 else age, colour, seen, smokes])


CONTRACT = [
    "task=table",
    "task.label=outcome",
    "task.missing=typical",
    "task.missing_flags=true",
    "+task.columns=[{name: age, type: number, low: 0, high: 120},"
    " {name: colour, type: category, values: [red, blue], other: true}, {name: seen, type: date},"
    " {name: smokes, type: flag}, {name: outcome, type: category, values: [well, ill]}]",
]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    write_rows(folder / "rows.csv")
    contract = [one.removeprefix("+") for one in CONTRACT]
    where = [f"data.root={folder / 'rows.csv'}", f"run.output={folder}", "run.name=t"]
    meadow.simulate([*QUICK, *contract, *where, "model=resmlp"])
    return folder


def lines(text: str) -> list[list[str]]:
    return list(csv.reader(text.splitlines()))


def test_weights_and_loader_read_rows_and_say_what_predict_says(table: Path) -> None:
    folder, compared = export(
        str(table / "t"), "safetensors", table / "plain", DataConf(root=str(table / "rows.csv"))
    )
    predict(str(table / "t"), DataConf(root=str(table / "rows.csv")), table / "made.csv")

    # In a folder of its own, with nothing of this tree on its path.
    told = subprocess.run(
        [sys.executable, "-I", "-B", str(folder / "model.py"), str(table / "rows.csv")],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )

    assert compared == 245
    assert sorted(path.name for path in folder.iterdir()) == [
        "contract.json",
        "model.py",
        "model.safetensors",
    ]
    made = lines((table / "made.csv").read_text())
    found = lines(told.stdout)
    assert found[0] == ["place", "prediction", "well", "ill"]
    assert [row[:2] for row in found[1:]] == [row[:2] for row in made[1:]]
    apart = [abs(float(a[3]) - float(b[3])) for a, b in zip(found[1:], made[1:], strict=True)]
    assert max(apart) < 1e-5


def test_a_torch_export_holds_its_contract_and_no_pickle(table: Path) -> None:
    folder, _ = export(str(table / "t"), "torch_export", table / "pt2", DataConf())

    assert pickles_in(folder / "model.pt2") == []
    extra = {"contract.json": ""}
    program = torch.export.load(folder / "model.pt2", extra_files=extra)
    assert json.loads(extra["contract.json"]) == json.loads((folder / "contract.json").read_text())
    one = program.module()(torch.tensor([[50.0, 0.0, 8000.0, 1.0]]))
    assert one.shape == (1, 2)


def test_an_archive_of_pickles_is_seen_as_one(tmp_path: Path) -> None:
    import zipfile

    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "as_torch_does.pt2")
    assert len(pickles_in(tmp_path / "as_torch_does.pt2")) == 1
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as archive:
        archive.writestr("bytes", b"\x80\x02" + bytes(100))
        archive.writestr("pickled", b"\x80\x04K\x01.")
    assert pickles_in(tmp_path / "plain.zip") == ["pickled"]


def test_an_onnx_file_is_run_by_its_own_runtime(table: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    folder, _ = export(str(table / "t"), "onnx", table / "onnx", DataConf())

    session = runtime.InferenceSession(str(folder / "model.onnx"))
    told = session.get_modelmeta().custom_metadata_map["meadow.contract"]
    assert json.loads(told)["output"]["names"] == ["well", "ill"]


def test_images_are_read_as_meadow_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for name, grey in (("dark", 20), ("light", 180)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for n in range(12):
            pixels = draw.integers(grey, grey + 60, (21, 19, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{n}.png")
    size = ["task.height=16", "task.width=16", "task.channels=1", "trainer.batch_size=4"]
    meadow.simulate([*QUICK, *size, "task=images", "data.root=set", "run.name=i", "model=cnn"])

    folder, compared = export("i", "safetensors", None, DataConf(root="set"))
    predict("i", DataConf(root="set"), tmp_path / "made.csv")

    assert folder.resolve() == tmp_path / "outputs/i/export/safetensors"
    assert compared == 29
    made = lines((tmp_path / "made.csv").read_text())[1:]
    told = subprocess.run(
        [sys.executable, "-I", "-B", str(folder.resolve() / "model.py"), *(row[0] for row in made)],
        cwd=tmp_path / "set",
        capture_output=True,
        text=True,
        check=True,
    )
    found = lines(told.stdout)[1:]
    assert [row[:2] for row in found] == [row[:2] for row in made]
    apart = [abs(float(a[2]) - float(b[2])) for a, b in zip(found, made, strict=True)]
    assert max(apart) < 1e-5


def test_a_file_that_says_something_else_is_refused(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = dict.fromkeys(FORMATS, lambda *_: lambda examples: torch.zeros(len(examples), 2))
    monkeypatch.setattr("server.export.export.FORMATS", wrong)

    with pytest.raises(DataError) as caught:
        export(str(table / "t"), "onnx", table / "wrong", DataConf())

    assert caught.value.code == "MDW-258"
