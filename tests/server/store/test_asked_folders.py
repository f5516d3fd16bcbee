"""A request names no file of its own choice on the orchestrator's disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf.compose import compose
from conf.errors import ConfigError
from conf.schema import Conf
from server.store.asked_folders import check_folders


class Machine:
    """An orchestrator's disk: its runs, a folder that its owner lists, one that nobody listed."""

    def __init__(self, folder: Path) -> None:
        self.runs, self.listed, self.secret = folder / "runs", folder / "sets", folder / "private"
        for place in (self.runs / "first", self.listed / "inner", self.secret):
            place.mkdir(parents=True)
        (self.listed / "link").symlink_to(self.secret)
        self.own = compose([f"run.output={self.runs}"])

    def refuses(self, key: str, value: object) -> None:
        asked: Conf = compose([])
        if key == "model.init":
            asked.model.init = str(value)
        else:
            asked.data.root = str(value)
        with pytest.raises(ConfigError, match=f"MDW-115.*{key}"):
            check_folders(asked, self.own)

    def takes(self, key: str, value: object) -> None:
        asked: Conf = compose([])
        if key == "model.init":
            asked.model.init = str(value)
        else:
            asked.data.root = str(value)
        check_folders(asked, self.own)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_by_default_a_request_may_start_from_a_run_and_read_nothing_else(machine: Machine) -> None:
    machine.takes("model.init", "first")
    machine.takes("model.init", machine.runs / "first")
    for key in ("model.init", "data.root"):
        machine.refuses(key, machine.secret)
        machine.refuses(key, machine.secret / "model.safetensors")
        machine.refuses(key, machine.listed)
        machine.refuses(key, "/")
        machine.refuses(key, "~")
    machine.refuses("data.root", machine.runs)
    machine.refuses("model.init", machine.runs / ".." / "private")
    machine.refuses("model.init", "no-such-run")


def test_a_folder_that_the_owner_lists_may_be_read_and_no_link_out_of_it(machine: Machine) -> None:
    machine.own.federation.orchestrator.read_from = [str(machine.listed)]
    for key in ("model.init", "data.root"):
        machine.takes(key, machine.listed / "inner")
        machine.takes(key, machine.listed)
        machine.refuses(key, machine.listed / "link")
        machine.refuses(key, machine.listed / "link" / "model.safetensors")
        machine.refuses(key, f"{machine.listed}-beside")


def test_what_the_server_was_launched_with_may_be_asked_for(machine: Machine) -> None:
    machine.own.data.root = str(machine.secret)
    machine.own.model.init = str(machine.secret / "model.safetensors")
    machine.takes("data.root", machine.secret)
    machine.takes("model.init", machine.secret / "model.safetensors")
    machine.refuses("data.root", machine.secret / "deeper")


def test_a_run_that_asks_for_nothing_is_left_alone(machine: Machine) -> None:
    check_folders(compose([]), machine.own)
