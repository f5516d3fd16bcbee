"""What a run that somebody asked for may have imported is its orchestrator's owner's to say."""

from __future__ import annotations

import pytest

from conf.compose import compose
from conf.errors import ConfigError
from conf.targets.asked import check_asked, check_brought_home, nested_targets


def test_a_run_of_this_tree_names_nothing() -> None:
    conf = compose([])
    check_asked(conf, [])
    assert nested_targets(conf) == []


@pytest.mark.parametrize(
    "config",
    [
        b"task: {name: x.Y, target: /tmp/evil.py:Y}",
        b"model: {target: os.system}",
        b"strategy: {name: a.B, target: b.py:B, code: ''}",
    ],
)
def test_a_run_that_is_brought_home_says_nothing_of_this_machine(config: bytes) -> None:
    with pytest.raises(ConfigError, match=r"MDW-116.*target="):
        check_brought_home(config, "a")


@pytest.mark.parametrize(
    "config", [b"", b"[]", b"{", b"\xff", b"task: x", b"task: {target: ''}", b"[" * 50_000]
)
def test_what_names_no_place_of_code_is_brought_home(config: bytes) -> None:
    check_brought_home(config, "a")
