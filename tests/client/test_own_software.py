"""A silo says what it runs, and nothing that names its machine."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from client.own_software import driver, software
from conf.code_digest import release_digest, run_digest, run_files
from conf.compose import compose
from conf.schema import RunScope
from strategies.wire import run_config
from strategies.wire.software import Software


def scope(*overrides: str) -> RunScope:
    return run_config.unpack(run_config.pack(compose([*overrides])))


def test_it_is_what_runs_here_and_what_admission_takes() -> None:
    ours = software(scope("task=digits", "model=mlp"))
    assert (ours.python, ours.torch) == (platform.python_version(), torch.__version__)
    assert ours.cpu == torch.backends.cpu.get_cpu_capability() != ""
    assert ours.code == release_digest() and ours.flwr and ours.meadow
    assert Software.from_record(ours.to_record()) == ours
    assert ours.run_code == run_digest(run_files("digits", "mlp", "fedavg")) != ours.code
    assert platform.node() not in ours.to_json().values()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
            "GCC version:  gcc version 12.3.0\n",
            "535.104.05",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n"
            "GCC version:  gcc version 12.3.0\n",
            "570.86.15",
        ),
        ("something else 1.2\n", ""),
        ("", ""),
    ],
)
def test_the_driver_s_version_is_read_from_what_the_driver_says(
    tmp_path: Path, text: str, version: str
) -> None:
    (tmp_path / "version").write_text(text)
    assert driver(tmp_path / "version") == version
    assert driver(tmp_path / "absent") == ""


def test_a_strategy_that_only_the_server_has_leaves_its_digest_empty() -> None:
    other = scope("task=digits", "model=mlp")
    other.strategy.name = "of_another_release"
    assert software(other).run_code == "" and software(other).code == release_digest()
