"""The table that scikit-learn brings, read as its own loader reads it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from client.tables.bundled import bundled_table
from client.tables.contract import contract_of
from conf.compose import compose
from conf.errors import ConfigError
from conf.schema import DataConf, TableConf


def test_its_rows_and_classes_are_those_of_scikit_learn() -> None:
    task = compose(["task=breast_cancer"]).task
    assert isinstance(task, TableConf)

    table = bundled_table(
        "breast_cancer", contract_of(task.columns, task.label, [], "refuse"), DataConf()
    )

    theirs = load_breast_cancer()
    assert [column["name"] for column in task.columns[:-1]] == theirs.feature_names.tolist()
    np.testing.assert_allclose(table.inputs, theirs.data, rtol=1e-6)
    malignant = theirs.target_names.tolist().index("malignant")
    assert np.array_equal(table.labels[:, 0] == 1, theirs.target == malignant)


def test_a_contract_of_another_width_is_refused() -> None:
    columns = [{"name": "a", "low": 0, "high": 9}, {"name": "b", "type": "flag"}]

    with pytest.raises(ConfigError, match="31 columns, not 2"):
        bundled_table("breast_cancer", contract_of(columns, "b"), DataConf())
