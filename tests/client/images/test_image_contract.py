"""What in the contract of a set of images contradicts itself is refused before a file is read."""

from __future__ import annotations

from typing import Any

import pytest

from client.tasks import task_of
from conf.errors import ConfigError
from conf.schema import ImagesConf

GOOD: dict[str, Any] = {
    "labels_file": "labels.csv",
    "label": "state",
    "classes": ["well", "ill"],
    "subgroup": "sex",
    "subgroup_values": ["f", "m"],
}


def test_one_that_is_whole_is_taken() -> None:
    assert task_of(ImagesConf(**GOOD)).contract is not None


@pytest.mark.parametrize(
    "said",
    [
        {"subgroup_values": []},
        {"subgroup": ""},
        {"subgroup_values": ["f", "f"]},
        {"labels_file": "", "label": ""},
        {"label": "", "labels": ["state"], "classes": []},
        {"channels": 2},
        {"classes": ["well"]},
        {"files": "idx"},
        {"labels": ["state"]},
        {"label_map": [{"text": "1", "means": "dead"}]},
    ],
)
def test_contradictions_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="MDW-186"):
        task_of(ImagesConf(**{**GOOD, **said}))
