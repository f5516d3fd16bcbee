"""Faults of federated-learning examples that people have copied, each with a test that it is not here.

They are those of Azure ML's federated-learning accelerator: a loss that stays at zero in the log, batch
means that are divided twice, a test set that is augmented, one metric under another's name, silos that
standardise each by their own mean, files and labels in an order of the machine or the silo, and patients
in two splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score
from torch.nn import functional
from torch.utils.data import TensorDataset

import meadow
from client import loop, sums
from client.formats.table_file import read_table_file, table_files
from client.images.image_files import by_folder
from client.models import build_model
from client.tasks import task_of
from client.tasks.base import Task
from conf.schema import DataConf, ImagesConf, LinearConf, ModelConf, Silo, TableConf, TrainerConf
from server.run.history import read_history

QUICK = ["tracking=off", "simulation.workers=0", "federation.size=3", "run.rounds=2"]
COLUMNS = [
    {"name": "age", "low": 0.0, "high": 100.0},
    {"name": "ill", "type": "category", "values": ["well", "ill"]},
]


def table_task() -> Task:
    return task_of(TableConf(name="table", label="ill", columns=COLUMNS))


def rows(count: int, middle: float, seed: int = 0) -> TensorDataset:
    draw = np.random.default_rng(seed)
    age = draw.normal(middle, 5, (count, 1)).clip(0, 100).astype(np.float32)
    ill = (age[:, 0] + draw.normal(0, 4, count) > 50).astype(np.int64)
    return TensorDataset(torch.from_numpy(age), torch.from_numpy(ill))


def test_the_training_loss_in_the_log_is_that_of_the_examples(tmp_path: Path) -> None:
    run = meadow.simulate([*QUICK, "task=breast_cancer", f"run.output={tmp_path}"])
    first, second = read_history(run.folder)
    losses = [metrics["loss"] for metrics in first.train.values()]
    assert all(0.01 < loss < 10 for loss in losses) and len(set(losses)) == 3
    assert second.aggregate["train_loss"] < first.aggregate["train_loss"]


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_loss_is_a_mean_over_examples_whatever_the_batch(batch: int) -> None:
    task = table_task()
    data = rows(50, 50)
    model = build_model(LinearConf(name="linear"), task, 0)
    trainer = TrainerConf(lr=1e-12, momentum=0, batch_size=batch, eval_batch_size=batch)
    with torch.inference_mode():
        wanted = float(functional.cross_entropy(model(data.tensors[0]), data.tensors[1]))

    trained = loop.train(model, data, task, trainer, seed=0)
    evaluated = sums.metrics_of(task, loop.evaluate(model, data, task, trainer).sums)

    assert trained.metrics["loss"] == pytest.approx(wanted, rel=1e-5)
    assert evaluated["loss"] == pytest.approx(wanted, rel=1e-5)


def test_a_test_set_is_never_augmented() -> None:
    jitter = [{"name": "RandomErasing", "p": 1.0}, {"name": "ColorJitter", "brightness": 0.9}]
    task = task_of(
        ImagesConf(name="images", classes=["a", "b"], height=16, width=16, augment=jitter)
    )
    model = build_model(ModelConf(name="cnn"), task, 0)
    images = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8)
    data = TensorDataset(images, torch.arange(12) % 2)
    model.train()
    drawn = model(images)
    found = [loop.evaluate(model, data, task, TrainerConf()).sums["loss"] for _ in range(2)]
    assert torch.equal(found[0], found[1])
    with torch.inference_mode():
        plain = float(functional.cross_entropy(model.eval()(images), data.tensors[1]))
    assert float(found[0]) / 12 == pytest.approx(plain, rel=1e-5)
    assert not torch.allclose(drawn, model(images))


def test_each_metric_is_what_its_name_says() -> None:
    task = table_task()
    data = rows(400, 48)
    model = build_model(LinearConf(name="linear"), task, 0)
    model.load_state_dict(
        model.state_dict()
        | {"model.1.weight": torch.tensor([[-9.0], [9.0]]), "model.1.bias": torch.zeros(2)}
    )
    with torch.inference_mode():
        scores = (model(data.tensors[0]) @ torch.tensor([-1.0, 1.0])).numpy()
    true = data.tensors[1].numpy()
    wanted = {
        "accuracy": accuracy_score(true, scores > 0),
        "f1": f1_score(true, scores > 0, average="macro"),
        "auroc": roc_auc_score(true, scores),
        "auprc": average_precision_score(true, scores),
    }
    found = sums.metrics_of(task, loop.evaluate(model, data, task, TrainerConf()).sums)
    assert len({round(value, 4) for value in wanted.values()}) == 4
    for name, value in wanted.items():
        error = found.get(f"{name}_error", 1e-9)
        assert abs(found[name] - value) <= error < 2e-3, name


def test_all_silos_scale_by_the_mean_of_all_their_rows(tmp_path: Path) -> None:
    text = "age,ill\n" + "".join(f"{age},{'ill' if age > 45 else 'well'}\n" for age in range(5, 95))
    (tmp_path / "rows.csv").write_text(text)
    run = meadow.simulate(
        [
            *QUICK,
            *("task=table", "task.label=ill", f"data.root={tmp_path / 'rows.csv'}"),
            *("data=column", "data.column=age", "data.test=0", "data.validation=0"),
            f"run.output={tmp_path}",
        ]
    )
    layer = meadow.load_model(run.folder).input
    # Of three silos with ages of 5 to 34, to 64 and to 94.
    assert float(layer.mean[0]) == pytest.approx(np.arange(5, 95).mean(), abs=1e-3)
    assert float(layer.scale[0]) == pytest.approx(np.arange(5, 95).std(), abs=1e-3)


def test_files_come_in_one_order_on_every_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b.csv", "B.csv", "a10.csv", "a9.csv", "ä.csv"):
        (tmp_path / "t").mkdir(exist_ok=True)
        (tmp_path / "t" / name).write_text("x\n1\n")
        (tmp_path / "i/one").mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / "i/one" / name.replace("csv", "png"))

    def listed() -> list[str]:
        tables = [path.stem for path in table_files(tmp_path / "t")]
        assert [path.stem for path in by_folder(tmp_path / "i", ["one"]).files] == tables
        return tables

    before = listed()
    real = Path.rglob

    def backwards(self: Path, pattern: str) -> Iterator[Path]:
        yield from reversed(list(real(self, pattern)))

    monkeypatch.setattr(Path, "rglob", backwards)
    assert listed() == before == ["B", "a10", "a9", "b", "ä"]


def test_a_class_has_one_number_at_every_silo_whatever_it_lacks(tmp_path: Path) -> None:
    for silo, classes in (("a", ["ill"]), ("b", ["well", "ill"])):
        for name in classes:
            (tmp_path / silo / name).mkdir(parents=True)
            Image.new("L", (4, 4)).save(tmp_path / silo / name / f"{name}.png")
    order = ["well", "ill"]
    assert by_folder(tmp_path / "a", order).labels.tolist() == [1]
    assert by_folder(tmp_path / "b", order).labels.tolist() == [1, 0]
    (tmp_path / "one.csv").write_text("age,ill\n50,ill\n")
    task = table_task()
    silo = Silo("a", data=DataConf(partition="own", root=str(tmp_path / "one.csv")))
    assert read_table_file(tmp_path / "one.csv", DataConf()).table.num_rows == 1
    assert task.data(silo).labels is not None
    assert task.data(silo).labels.tolist() == [1]  # type: ignore[union-attr]


def test_a_patient_is_in_one_split_of_one_silo(tmp_path: Path) -> None:
    lines = [
        f"{patient},{20 + patient},{'ill' if patient % 2 else 'well'}" for patient in range(40)
    ]
    (tmp_path / "rows.csv").write_text("patient,age,ill\n" + "\n".join(lines * 3) + "\n")
    task = table_task()
    data = DataConf(partition="iid", root=str(tmp_path / "rows.csv"), group="patient", test=0.3)
    where: dict[float, set[tuple[int, str]]] = {}
    for index in range(2):
        parts = task.data(Silo(f"s{index}", index=index, of=2, data=data))
        for name in ("train", "validation", "test"):
            for age in getattr(parts, name)[:][0][:, 0].tolist():
                where.setdefault(age, set()).add((index, name))
    assert len(where) == 40
    assert {len(places) for places in where.values()} == {1}
