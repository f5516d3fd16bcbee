"""The first layer over a table: what a row becomes."""

from __future__ import annotations

import numpy as np
import torch

from client.input_layer import WithInputLayer
from client.models import build_model
from client.tables.row_layer import RowLayer
from client.tasks import task_of
from conf.schema import MlpConf, TableConf
from conf.schema.table_columns import ColumnConf

COLUMNS = [
    ColumnConf("kind", "category", values=["a", "b"], other=True, missing="refuse"),
    ColumnConf("age", "number", low=0, high=100, missing="constant", constant=50),
    ColumnConf("day", "date", missing="typical"),
    ColumnConf("yes", "flag", missing="refuse"),
]


def test_a_row_becomes_as_many_numbers_as_the_shape_says() -> None:
    layer = RowLayer(COLUMNS, scale="range", missing_flags=True)
    row = torch.tensor([[1.0, 75.0, 365.2425 / 4, 1.0]])

    made = layer(row)[0]

    assert layer.shape == (2 + 1 + 1 + 5 + 3,)
    assert made.shape == layer.shape
    torch.testing.assert_close(
        made,
        # Missing: age, day; then age; yes; the day as years, in the year, in the day; the kind.
        torch.tensor([0, 0, 0.5, 1, 0.25, 1, 0, *day(365.2425 / 4), 0, 1, 0]).float(),
        atol=1e-4,
        rtol=0,
    )


def day(days: float) -> list[float]:
    angle = 2 * np.pi * (days % 1)
    return [np.sin(angle), np.cos(angle)]


def test_a_missing_number_is_its_constant_and_is_told_where_asked() -> None:
    layer = RowLayer(COLUMNS, scale="range", missing_flags=True)
    row = torch.tensor([[0.0, torch.nan, 1.0, 0.0]])

    made = layer(row)[0]

    assert made[:3].tolist() == [1, 0, 0]


def test_a_model_file_holds_what_its_rows_are_scaled_by() -> None:
    columns = [
        {"name": "age", "low": 0, "high": 100},
        {"name": "ill", "type": "flag"},
    ]
    task = task_of(TableConf(label="ill", columns=columns))

    model = build_model(MlpConf(hidden=[3]), task, seed=0)

    assert isinstance(model, WithInputLayer)
    buffers = {name for name, _ in model.named_buffers()}
    assert buffers == {
        "input.mean",
        "input.scale",
        "input.fill",
        "input.mode",
        "input.class_weights",
    }
    assert buffers < model.state_dict().keys()
