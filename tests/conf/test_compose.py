"""What overrides compose to, from anywhere, and what a person reads when they are wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.compose import compose
from conf.config_groups import groups, options
from conf.errors import ConfigError
from conf.schema import (
    VARIANTS,
    Conf,
    ExternalStrategyConf,
    FedProxConf,
    MlpConf,
    ResNetConf,
    TrainerConf,
)
from conf.silos import silos
from strategies.wire.run_config import pack, unpack

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted(
    path.relative_to(CONF) for path in CONF.rglob("*.yaml") if path.name != "config.yaml"
)
NEEDED = {
    "task/external": ["task.target=docs/examples/wine.py:Wine"],
    "strategy/external": ["strategy.target=flwr.serverapp.strategy.FedAdam"],
    "model/external": ["model.target=torchvision.models.resnet18"],
    "strategy/krum": ["federation.size=5"],
    "strategy/multikrum": ["federation.size=5"],
    "strategy/bulyan": ["federation.size=7"],
    "privacy/sample_dp": ["strategy.weighting=equal"],
    "privacy/silo_dp": ["strategy.weighting=equal"],
    "privacy/local_dp": ["strategy.weighting=equal"],
}


def refused(*overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        compose(list(overrides))
    return caught.value


def yaml(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return f"hydra.searchpath=['file://{folder}']"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_file_composes_to_what_travels_and_to_silos(file: Path) -> None:
    group, choice = file.parent.as_posix(), file.stem
    conf = compose([f"{group}={choice}", *NEEDED.get(f"{group}/{choice}", [])])
    assert unpack(pack(conf)).trainer == conf.trainer
    assert len(silos(conf)) == conf.federation.size


def test_every_group_of_the_schema_has_files_and_every_folder_is_a_group() -> None:
    assert set(groups()) == {f.name for f in fields(Conf)} - {"run"} | {"experiment"}
    assert {str(file) for file in FILES} == {f"{g}/{o}.yaml" for g in groups() for o in options(g)}


def test_every_variant_of_a_group_has_a_file() -> None:
    for group, classes in VARIANTS.items():
        assert set(classes) <= set(options(group))


def test_the_defaults_are_a_quick_run_over_three_skewed_silos() -> None:
    conf = compose([])
    assert (conf.task.name, conf.data.partition, conf.data.alpha) == ("digits", "dirichlet", 0.5)
    assert conf.federation.size == 3 and 5 <= conf.run.rounds <= 10
    assert type(conf) is Conf and type(conf.model) is MlpConf and conf.model.hidden == [64]


def test_the_quickstart_asks_what_the_federation_was_worth() -> None:
    assert compose(["experiment=quickstart"]).run.baseline == "all"


def test_the_niid_experiment_is_the_published_setting_and_gives_way_to_the_command_line() -> None:
    conf = compose(["experiment=niid_mnist", "trainer.epochs=2"])
    assert (conf.task.name, conf.model.name, conf.federation.size, conf.run.rounds) == (
        "mnist",
        "cnn",
        10,
        50,
    )
    assert (
        conf.trainer.lr,
        conf.trainer.momentum,
        conf.trainer.batch_size,
        conf.trainer.epochs,
    ) == (0.01, 0.9, 64, 2)
    assert (conf.data.partition, conf.data.alpha) == ("dirichlet", 0.5)
    assert (conf.data.validation, conf.data.test) == (0.0, 0.0)


def test_the_command_of_the_issue_composes() -> None:
    words = "strategy=fedprox strategy.mu=0.01 federation.size=5 data.partition=dirichlet data.alpha=0.3 run.rounds=20"
    conf = compose(words.split())
    assert conf.strategy == FedProxConf(mu=0.01)
    assert (conf.federation.size, conf.data.alpha, conf.run.rounds) == (5, 0.3, 20)


def test_the_partition_follows_the_seed_of_the_run_unless_it_is_set() -> None:
    assert compose(["run.seed=7", "data=labels"]).data.seed == 7
    assert compose(["run.seed=7", "data.seed=3"]).data.seed == 3


def test_a_variant_brings_its_own_keys() -> None:
    assert compose(["model=resnet18_gn"]).model == ResNetConf(norm="group")
    assert compose(["model=mlp", "model.hidden=[32,16]"]).model == MlpConf(hidden=[32, 16])


def test_new_names_in_a_mapping_need_no_plus() -> None:
    conf = compose(
        [
            "strategy=external",
            "strategy.target=flwr.serverapp.strategy.FedAdam",
            "strategy.args.eta=0.1",
            "++strategy.args.tau=1e-3",
            "federation.silos.north.data.root=/x",
            "federation.silos.south.device=cpu",
            "federation.silos.north.threads=2",
        ]
    )
    assert isinstance(conf.strategy, ExternalStrategyConf) and conf.strategy.args == {
        "eta": 0.1,
        "tau": 0.001,
    }
    north, south = silos(conf)
    assert (north.data.root, north.threads, south.data.root, south.device) == ("/x", 2, None, "cpu")


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:12"])
def test_a_device_is_named_as_torch_names_it(device: str) -> None:
    conf = compose([f"trainer.device={device}", f"federation.silos.north.device={device}"])
    assert conf.trainer.device == conf.federation.silos["north"].device == device


def test_a_mapping_may_be_given_whole() -> None:
    conf = compose(["federation.silos={south:{threads:2},north:{data:{root:/x}}}"])
    assert [s.name for s in silos(conf)] == ["north", "south"]


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ("trainer.lrr=3", "MDW-101", ("trainer.lrr", "command line", "Did you mean 'lr'?")),
        ("+trainer.lrr=3", "MDW-101", ("trainer.lrr", "command line", "Did you mean 'lr'?")),
        ("run.early_stop.patienc=1", "MDW-101", ("'run.early_stop'", "Did you mean 'patience'?")),
        ("run.rounds.x=1", "MDW-101", ("run.rounds", "'x'")),
        ("strateg=fedavg", "MDW-101", ("strateg", "Did you mean 'strategy'?")),
        ("foo=1", "MDW-101", ("foo", "trainer")),
        (
            "strategy.mu=1",
            "MDW-101",
            ("strategy.mu", "command line", "belongs to strategy=fedprox"),
        ),
        (
            "federation.silos.north.thread=1",
            "MDW-101",
            ("federation.silos.north.thread", "Did you mean 'threads'?"),
        ),
        (
            "federation.silos.north.data.rot=x",
            "MDW-101",
            ("federation.silos.north.data.rot", "'root'"),
        ),
        (
            "federation.silos={north:{thread:1}}",
            "MDW-101",
            ("command line", "Did you mean 'threads'?"),
        ),
        ("hydra.rum.dir=x", "MDW-101", ("hydra.rum",)),
        ("strategy=fedprx", "MDW-102", ("strategy=fedprx", "Did you mean 'fedprox'?")),
        ("experiment=quikstart", "MDW-102", ("Did you mean 'quickstart'?",)),
        ("trainer=null", "MDW-102", ("can't be left out", "adam, sgd")),
        (
            "run.rounds=abc",
            "MDW-103",
            ("run.rounds", "command line", "'abc' is not a whole number"),
        ),
        ("run.rounds=1.5", "MDW-103", ("run.rounds", "'1.5' is not a whole number")),
        ("run=3", "MDW-103", ("run ", "command line")),
        ("model.hidden=3", "MDW-103", ("model.hidden", "command line")),
        ("federation.silos.north.threads=x", "MDW-103", ("federation.silos.north.threads", "'x'")),
        (
            "data.seed=${oc.env:MEADOW_NOT_SET}",
            "MDW-103",
            ("data.seed", "command line", "MEADOW_NOT_SET"),
        ),
        ("run.seed=${run.sed}", "MDW-103", ("run.seed", "run.sed")),
        ("~trainer.momentum", "MDW-103", ("trainer.momentum",)),
        (
            "data.partition=dirichlt",
            "MDW-104",
            ("data.partition=dirichlt", "Did you mean 'dirichlet'?"),
        ),
        ("run.seed=1,2", "MDW-100", ("run.seed=1,2", "--multirun")),
        ("run.rounds=[", "MDW-100", ("run.rounds=[", "command line")),
        ("run.rounds", "MDW-100", ("run.rounds",)),
        ("strategy@x=fedavg", "MDW-100", ("strategy@x",)),
        ("run.name=ä", "MDW-100", ("run.name=ä", "'ä' is not allowed there", "run.name='TEXT'")),
        ("run.name='ä'", "MDW-104", ("ASCII letters",)),
        (
            "federation.silos.nörth.threads=1",
            "MDW-100",
            ("'ö' is not allowed there", "A key has only ASCII letters"),
        ),
        (
            "trainer.device=gpuu",
            "MDW-104",
            ("trainer.device=gpuu", "auto, cpu, mps, cuda or cuda:N"),
        ),
        (
            "federation.silos.north.device=cuda:x",
            "MDW-104",
            ("federation.silos.north.device", "cuda:N"),
        ),
    ],
)
def test_a_mistake_names_the_key_the_place_and_the_nearest_valid_name(
    override: str, code: str, words: tuple[str, ...]
) -> None:
    error = refused(override)
    assert (error.code, error.exit_status) == (code, 2)
    assert error.hint
    for word in words:
        assert word in str(error)


@pytest.mark.parametrize(
    ("file", "text", "code", "words"),
    [
        (
            "trainer/mine.yaml",
            "lrr: 3\n",
            "MDW-101",
            ("trainer/mine.yaml", "trainer.lrr", "Did you mean 'lr'?"),
        ),
        (
            "trainer/mine.yaml",
            "lr: fast\n",
            "MDW-103",
            ("trainer/mine.yaml", "trainer.lr", "'fast' is not a number"),
        ),
        ("trainer/mine.yaml", "lr: [\n", "MDW-100", ("mine.yaml",)),
        (
            "strategy/mine.yaml",
            "mu: 1\n",
            "MDW-101",
            ("strategy/mine.yaml", "belongs to strategy=fedprox"),
        ),
        (
            "experiment/mine.yaml",
            "# @package _global_\nrun:\n  round: 3\n",
            "MDW-101",
            ("experiment/mine.yaml", "run.round", "Did you mean 'rounds'?"),
        ),
        (
            "experiment/mine.yaml",
            "# @package _global_\ndefaults:\n  - override /trainer: sgdd\n",
            "MDW-102",
            ("trainer=sgdd", "Did you mean 'sgd'?"),
        ),
    ],
)
def test_a_mistake_in_a_file_names_the_file(
    tmp_path: Path, file: str, text: str, code: str, words: tuple[str, ...]
) -> None:
    error = refused(yaml(tmp_path, file, text), f"{file.split('/')[0]}=mine")
    assert error.code == code
    for word in words:
        assert word in str(error)


def test_a_stored_configuration_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("x\n")
    error = refused(f"run.resume={tmp_path}")
    assert error.code == "MDW-103"
    assert (
        error.message
        == f"the file {tmp_path}/config.yaml: 'x' is not a mapping of names to values."
    )


def test_a_value_out_of_range_names_the_file_it_stands_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import conf.hydra_errors

    monkeypatch.setattr(conf.hydra_errors, "files", lambda package: tmp_path)
    search = yaml(tmp_path, "trainer/mine.yaml", "lr: -1\n")
    error = refused(search, "trainer=mine")
    assert error.code == "MDW-104" and "conf/trainer/mine.yaml" in str(error)
    assert "command line" in str(refused(search, "trainer=mine", "trainer.lr=-2"))


@settings(max_examples=10, deadline=None)
@given(st.floats(min_value=1e-9, max_value=1e6))
def test_every_positive_learning_rate_arrives_as_it_was_written(rate: float) -> None:
    assert compose([f"trainer.lr={rate!r}"]).trainer.lr == rate


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_what_is_no_finite_number_is_refused(value: str) -> None:
    assert refused(f"run.round_timeout={value}").code == "MDW-104"


def test_composes_from_any_directory_and_from_several_threads_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: dict[int, int] = {}

    def one(seed: int) -> None:
        seen[seed] = compose([f"run.seed={seed}"]).data.seed

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {seed: seed for seed in range(4)}


def test_composes_inside_a_running_hydra_application() -> None:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_module("conf", version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        assert compose(["run.rounds=2"]).run.rounds == 2
        refused("run.rounds=x")
        assert GlobalHydra.instance().hydra is outer
        assert hydra_compose("config").run.rounds == 10
    assert not GlobalHydra.instance().is_initialized()


def test_what_is_composed_is_plain_and_shares_nothing() -> None:
    first, second = compose([]), compose([])
    assert first == second and type(first.trainer) is TrainerConf
    values: Any = first.model
    values.hidden.append(1)
    assert second != first


def test_composes_from_a_copy_of_the_package_as_in_a_wheel_or_a_bundle(tmp_path: Path) -> None:
    shutil.copytree(CONF, tmp_path / "site/conf", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import conf; from conf.compose import compose; c = compose(['strategy=fedprox', 'experiment=quickstart']); "
        "print(conf.__file__, c.strategy.mu)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == [str(tmp_path / "site/conf/__init__.py"), "0.01"], done.stderr


def test_a_wrong_entry_of_a_list_is_said_to_stand_where_the_list_does() -> None:
    error = refused("model.hidden=[64,-1]")
    assert error.code == "MDW-104"
    assert "model.hidden[1]=-1 (command line)" in str(error)
