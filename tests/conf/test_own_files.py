"""A folder that somebody brings is read as YAML 1.2; what Hydra reads for others, and runs, are not."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigLoadError

from conf.compose import compose
from conf.own_files import OwnFiles, address
from conf.resume import stored


def test_a_file_is_what_it_looks_like_with_its_header(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# @package _global_\na: 010\nb: 1e-3\nc: on\nd: ${a}\n")
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    source = OwnFiles("test", address(str(tmp_path)))
    found = source.load_config("mine")
    assert found.header["package"] == "_global_"
    assert found.config == {"a": 10, "b": 0.001, "c": "on", "d": 10}
    assert source.load_config("empty").config == {}
    with pytest.raises(ConfigLoadError):
        source.load_config("yours")


def test_a_folder_has_an_address_and_another_kind_of_address_stays(tmp_path: Path) -> None:
    assert address(str(tmp_path)) == f"yaml://{tmp_path}" == address(f"file://{tmp_path}")
    assert address("pkg://mine.conf") == "pkg://mine.conf"


def test_a_program_around_us_keeps_hydra_s_own_reader() -> None:
    compose([])
    assert SourcesRegistry.instance().resolve("file").__module__.startswith("hydra.")


def test_a_stored_run_is_read_by_the_rules_by_which_it_was_written(tmp_path: Path) -> None:
    conf = compose(["run.name='010'", "trainer.lr=0.001"])
    # Text in YAML 1.1, and so written without quotes; a number in YAML 1.2.
    conf = replace(conf, data=replace(conf.data, root="1e-3"))
    text = yaml.safe_dump(asdict(conf))
    assert "root: 1e-3" in text
    (tmp_path / "config.yaml").write_text(text)
    assert stored(tmp_path) == conf
