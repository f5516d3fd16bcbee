"""What another version wrote is refused by name, what is damaged by what is wrong with it, and nothing else."""

from __future__ import annotations

import json

import pytest

from conf.errors import CheckpointError
from conf.versions import Format, Raw

FORMAT = Format("thing", 3, damaged="MDW-502", fix="Use another.")


def test_this_version_is_read() -> None:
    text = json.dumps(FORMAT.stamp | {"a": 1})
    assert FORMAT.loads(text, "x") == {"version": 3, "a": 1}


@pytest.mark.parametrize("version", [99, 4, 2, 0, -1])
def test_another_version_is_refused_and_both_are_named(version: int) -> None:
    with pytest.raises(CheckpointError) as caught:
        FORMAT.loads(json.dumps({"version": version}), "a/file.json")
    assert caught.value.code == "MDW-505"
    for text in ("a/file.json", "thing", f"version {version};", "version 3."):
        assert text in caught.value.message
    assert ("Update" in caught.value.hint) is (version > 3)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", "{}", '{"version": "3"}', '{"version": true}', '{"version": 3.0}',
     b"\xff\xfe", "[" * 100_000],
)  # fmt: skip
def test_what_is_damaged_has_a_code_and_a_place(text: str | bytes) -> None:
    with pytest.raises(CheckpointError, match=r"MDW-502: a/file\.json is not a readable thing"):
        FORMAT.loads(text, "a/file.json")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(CheckpointError, match="'heads' is missing"), FORMAT.reading("x"):
        {}["heads"]


def test_an_older_version_is_migrated_step_by_step() -> None:
    def to_two(raw: Raw) -> Raw:
        return {"names": [raw["name"]]}

    def to_three(raw: Raw) -> Raw:
        return raw | {"count": len(raw["names"])}

    newer = Format("thing", 3, migrations={1: to_two, 2: to_three})
    raw = newer.checked({"version": 1, "name": "a"}, "x")
    assert raw == {"version": 3, "names": ["a"], "count": 1}
    with pytest.raises(CheckpointError, match=r"MDW-506.*'name' is missing"):
        newer.checked({"version": 1}, "x")
