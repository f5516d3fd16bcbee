"""`trainer.compile` and `trainer.deterministic` were switches: what was written then still holds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from conf.allowed import broken, check_policy
from conf.compose import compose
from conf.errors import ConfigError
from conf.parse import from_plain
from conf.schema import MachineConf, PolicyConf, SiloConf, TrainerConf
from strategies.wire import run_config

OLD_AND_NEW = [(True, "default", "true"), (False, "off", "false")]


@pytest.mark.parametrize(("was", "compiled", "strict"), OLD_AND_NEW)
def test_a_command_a_file_and_code_may_say_it_as_before(
    was: bool, compiled: str, strict: str
) -> None:
    word = str(was).lower()
    by_command = compose([f"trainer.compile={word}", f"trainer.deterministic={word}"]).trainer
    by_file = from_plain(TrainerConf, {"compile": was, "deterministic": was}, where="a file")
    by_code = TrainerConf(compile=was, deterministic=was)  # type: ignore[arg-type]  # as it was called
    for trainer in (by_command, by_file, by_code):
        assert (trainer.compile, trainer.deterministic) == (compiled, strict)


@pytest.mark.parametrize("word", ["off", "False", "false", "no"])
def test_a_yaml_file_of_a_group_may_say_off(word: str, tmp_path: Path) -> None:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "mine.yaml").write_text(f"compile: {word}\n")
    path = f"hydra.searchpath=[file://{tmp_path}]"
    if word == "no":
        # Files of one's own are read as YAML 1.2, where this is a text.
        with pytest.raises(ConfigError, match="MDW-104"):
            compose([path, "trainer=mine"])
        return
    assert compose([path, "trainer=mine"]).trainer.compile == "off"


@pytest.mark.parametrize(("was", "compiled", "strict"), OLD_AND_NEW)
def test_a_server_of_an_earlier_release_is_understood(
    was: bool, compiled: str, strict: str
) -> None:
    plain = json.loads(run_config.pack(compose([])))
    plain["trainer"].update(compile=was, deterministic=was)
    trainer = run_config.unpack(json.dumps(plain)).trainer
    assert (trainer.compile, trainer.deterministic) == (compiled, strict)


def test_a_stored_configuration_keeps_its_words() -> None:
    conf = compose(["trainer.compile=off", "trainer.deterministic=true"])
    again = yaml.safe_load(yaml.safe_dump(asdict(conf.trainer)))
    assert from_plain(TrainerConf, again, where="a file") == conf.trainer


def test_an_owner_s_rules_of_before_allow_what_they_allowed() -> None:
    rules = {"trainer.compile": [False], "trainer.deterministic": [True]}
    check_policy(PolicyConf(version=2, allow=rules), "policy", lambda key: "a file")
    same = {"trainer.compile": "off", "trainer.deterministic": "true"}
    assert broken(rules, same) == []
    more = {"trainer.compile": "default", "trainer.deterministic": "auto"}
    assert [one.asked for one in broken(rules, more)] == [
        "trainer.compile=default",
        "trainer.deterministic=auto",
    ]


def test_a_silo_s_machine_may_be_told_so_too_and_nothing_else() -> None:
    raw = {"machine": {"compile": True, "precision": "fp16"}}
    assert from_plain(SiloConf, raw, where="a file").machine == MachineConf(
        compile="default", precision="fp16"
    )
    with pytest.raises(ConfigError, match="MDW-104"):
        compose(["federation.silos.north.machine.precision=fp8"])
    with pytest.raises(ConfigError, match=r"MDW-101: .*machine\.lr"):
        compose(["federation.silos.north.machine.lr=1"])
