"""What a run ran on holds digests of the code, and of the user's own strategy file."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

from conf.code_digest import release_digest, tree_digest
from conf.compose import compose
from server.run.environment import environment


def test_it_names_the_code_and_not_the_machine() -> None:
    found = environment(compose([]))
    assert (found["code"], found["tree"]) == (release_digest(), tree_digest())
    assert found["strategy_file"] == "" and found["threads"] == 1
    assert platform.node() not in str(found)


def test_a_strategy_from_a_file_of_the_user_is_named_by_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("class Mine: ...\n")
    conf = compose(["strategy=external", f"strategy.target={file}:Mine"])
    assert environment(conf)["strategy_file"] == hashlib.sha256(file.read_bytes()).hexdigest()
    file.unlink()
    assert environment(conf)["strategy_file"] == ""
    dotted = compose(["strategy=external", "strategy.target=flwr.serverapp.strategy.FedAdam"])
    assert environment(dotted)["strategy_file"] == ""
