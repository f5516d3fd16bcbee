"""A silo owner's own file reaches that silo alone, and can't set what is not the silo's."""

from __future__ import annotations

from pathlib import Path

import pytest

from azureml_jobs.jobs.silo_file import with_own
from conf.compose import compose
from conf.errors import ConfigError
from conf.schema import Conf, MachineConf, PolicyConf
from conf.silos import silo_from_json, silo_to_json, silos


@pytest.fixture
def conf() -> Conf:
    return compose(["federation.silos={north:{data:{test:0.3}},south:{}}"])


def write(folder: Path, text: str) -> Path:
    path = folder / "north.yaml"
    path.write_text(text)
    return path


def test_it_is_laid_over_that_silo_s_entry_alone(conf: Conf, tmp_path: Path) -> None:
    made = with_own(
        conf,
        "north",
        write(tmp_path, "data: {root: /data, examples: 50}\ndevice: cpu\nthreads: 2\n"),
    )
    north, south = silos(made)
    assert (north.data.root, north.data.examples, north.data.test) == ("/data", 50, 0.3)
    assert (north.device, north.threads) == ("cpu", 2)
    assert (south.data.root, south.device) == (None, None)
    assert conf.federation.silos["north"].device is None


@pytest.mark.parametrize(
    "text", ["run: {rounds: 1}", "key_vault: kv-south", "data: {secret: 1}", "workspace: {}"]
)
def test_what_is_not_the_silo_s_to_set_is_refused(conf: Conf, tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"MDW-101.*north\.yaml"):
        with_own(conf, "north", write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "code"), [("threads: 0", "MDW-104"), ("threads: many", "MDW-103"), ("[", "MDW-106")]
)
def test_a_wrong_value_names_the_file(conf: Conf, tmp_path: Path, text: str, code: str) -> None:
    with pytest.raises(ConfigError, match=rf"{code}.*north\.yaml"):
        with_own(conf, "north", write(tmp_path, text))


def test_a_missing_file_is_told(conf: Conf, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MDW-106"):
        with_own(conf, "north", tmp_path / "gone.yaml")


POLICY = (
    "batch_size_at_most: 16\npolicy: {models: [cnn, mlp], tasks: [digits], rounds_at_most: 20}\n"
)


def test_batch_limit_and_policy_reach_that_silo_alone(conf: Conf, tmp_path: Path) -> None:
    north, south = silos(with_own(conf, "north", write(tmp_path, POLICY)))
    assert north.batch_size_at_most == 16
    assert north.policy == PolicyConf(tasks=["digits"], models=["cnn", "mlp"], rounds_at_most=20)
    assert (south.batch_size_at_most, south.policy) == (None, PolicyConf())
    assert silo_from_json(silo_to_json(north)) == north


def test_the_owner_s_policy_is_laid_over_the_federation_s_entry_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(
        "silos: {north: {policy: {epochs_at_most: 2, rounds_at_most: 5}}}"
    )
    made = with_own(
        compose([f"federation.file={tmp_path / 'f.yaml'}"]), "north", write(tmp_path, POLICY)
    )
    assert made.federation.silos["north"].policy == PolicyConf(
        tasks=["digits"], models=["cnn", "mlp"], epochs_at_most=2, rounds_at_most=20
    )


def test_a_policy_of_version_2_takes_the_place_of_bounds_of_version_1_in_the_entry(
    tmp_path: Path,
) -> None:
    (tmp_path / "f.yaml").write_text("silos: {north: {policy: {rounds_at_most: 5, code: []}}}")
    conf = compose([f"federation.file={tmp_path / 'f.yaml'}"])
    own = write(tmp_path, "policy: {version: 2, allow: {run.rounds: {at_most: 9}}}")
    policy = with_own(conf, "north", own).federation.silos["north"].policy
    assert (policy.version, policy.rounds_at_most) == (2, None)
    with pytest.raises(ConfigError, match=r"MDW-140.*run\.rounds instead of rounds_at_most"):
        own = write(tmp_path, "policy: {version: 2, rounds_at_most: 9}")
        with_own(conf, "north", own)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("{models: [resnet]}", r"MDW-104.*policy\.models\[0\]=resnet.*Did you mean 'resnet\d+'"),
        ("{strategies: [fedavgg]}", r"MDW-104.*Did you mean 'fedavg'"),
        ("{tasks: [../x]}", r"MDW-104.*small letters"), ("{models: mlp}", r"MDW-103.*list"),
        ("{epochs_at_most: 0}", r"MDW-104"), ("{model: [mlp]}", r"MDW-101.*models"),
    ],
)  # fmt: skip
def test_a_policy_that_would_not_mean_what_it_says_is_refused(
    conf: Conf, tmp_path: Path, policy: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        with_own(conf, "north", write(tmp_path, f"policy: {policy}"))
    (tmp_path / "f.yaml").write_text(f"silos: {{north: {{policy: {policy}}}}}")
    with pytest.raises(ConfigError, match=said):
        compose([f"federation.file={tmp_path / 'f.yaml'}"])


def test_the_machine_is_laid_over_the_federation_s_entry_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(
        "silos: {north: {machine: {precision: bf16, compile: true, loader_workers: 2}}}"
    )
    conf = compose([f"federation.file={tmp_path}/f.yaml"])
    own = write(tmp_path, "machine: {precision: fp16, compile: false}")
    north = with_own(conf, "north", own).federation.silos["north"]
    assert north.machine == MachineConf(precision="fp16", compile="off", loader_workers=2)
