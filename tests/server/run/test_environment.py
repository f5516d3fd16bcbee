"""What a run ran on holds digests of the code, and of the code from outside."""

from __future__ import annotations

import platform
from pathlib import Path

from conf.code_digest import release_digest, tree_digest
from conf.compose import compose
from server.run.environment import environment


def test_it_names_the_code_and_not_the_machine() -> None:
    found = environment(compose([]))
    assert (found["code"], found["tree"]) == (release_digest(), tree_digest())
    assert found["outside"] == {} and found["threads"] == 1
    assert platform.node() not in str(found)


def test_code_from_outside_is_named_by_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("class Mine: ...\n")
    conf = compose([f"strategy.target={file}:Mine"])
    code = getattr(conf.strategy, "code", "")
    assert len(code) == 64
    assert environment(conf)["outside"] == {"strategy mine.Mine": code}
    assert str(tmp_path) not in str(environment(conf))
