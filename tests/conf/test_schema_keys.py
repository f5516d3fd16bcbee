"""A key that is not of the schema is refused with what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf import schema_keys
from conf.compose import compose
from conf.errors import ConfigError
from conf.resume import stored


def test_a_renamed_key_is_refused_with_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(schema_keys.RENAMED, "run.turns", ("run.rounds",))
    with pytest.raises(ConfigError, match=r"MDW-101: run\.turns .*renamed.*now run\.rounds\."):
        compose(["run.turns=3"])
    (tmp_path / "config.yaml").write_text("run: {turns: 3}")
    with pytest.raises(ConfigError, match=r"config\.yaml.*renamed.*now run\.rounds\."):
        stored(tmp_path)


def test_every_successor_is_a_key_and_no_renamed_one_is() -> None:
    for old, successors in schema_keys.RENAMED.items():
        for new in successors:
            schema_keys.check_key(new, "the table")
        with pytest.raises(ConfigError, match="renamed"):
            schema_keys.check_key(old, "the table")
