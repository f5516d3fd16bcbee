"""A federation's file is another party's: it learns nothing of its reader, and reaches nothing of
the reader's."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from azureml_jobs.jobs.silo_file import with_own
from conf import foreign
from conf.compose import compose
from conf.errors import ConfigError
from conf.federation import read
from conf.federation_folder import FederationFolder
from conf.schema import FederationConf, InputConf, SiloConf, WorkspaceConf
from conf.schema_keys import bare, hints
from conf.silos import silos

SECRET = "hunter2-secret"


def _text_keys(cls: Any, key: str) -> Iterator[str]:
    """Yield the dotted keys of every text in a dataclass of the federation's file."""
    limited = {f.name for f in dataclasses.fields(cls) if {"one_of", "pattern"} & set(f.metadata)}
    for name, hint in hints(cls).items():
        at = f"{key}.{name}".lstrip(".")
        inner = bare(hint)
        if dataclasses.is_dataclass(inner):
            yield from _text_keys(inner, at)
        elif inner is str and (name not in limited or foreign.rule_of(at)):
            yield at


TEXTS = [
    key
    for key in [*_text_keys(FederationConf, ""), *_text_keys(SiloConf, "silos.north")]
    if ".policy." not in key
]


def _nested(key: str, value: object) -> str:
    """Return the YAML of a file in which `key` has that value."""
    made: object = value
    for name in reversed(key.split(".")):
        made = {name: made}
    return yaml.safe_dump(made)


def _refused(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> ConfigError:
    monkeypatch.setenv("CLIENT_SECRET", SECRET)
    file = tmp_path / "theirs.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read(file)
    assert SECRET not in str(caught.value)
    return caught.value


def test_every_text_of_the_file_is_limited_or_has_a_rule() -> None:
    unruled = [key for key in TEXTS if key != "name" and foreign.rule_of(key) is None]
    assert unruled == []
    assert {"orchestrator.ca", "silos.north.state", "folder", "orchestrator.store"} <= set(TEXTS)


@pytest.mark.parametrize("key", [*TEXTS, "silos.north.data.root", "silos.north.data.group"])
@pytest.mark.parametrize("value", ["${oc.env:CLIENT_SECRET}", "x/${oc.env:CLIENT_SECRET}"])
def test_no_interpolation_is_resolved_in_any_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    error = _refused(tmp_path, _nested(key, value), monkeypatch)
    assert error.code == "MDW-106"
    assert "interpolation" in error.message


@pytest.mark.parametrize("text", ["silos: {'${oc.env:CLIENT_SECRET}': {}}", "'${oc.env:X}': 1"])
def test_no_interpolation_is_resolved_in_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    assert _refused(tmp_path, text, monkeypatch).code == "MDW-106"


@pytest.mark.parametrize("name", ["../../x", "..", ".hidden", "a/b", "/abs", "", "a" * 65, "a b"])
def test_the_federation_s_name_cant_leave_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "theirs.yaml").write_text(_nested("name", name))
    with pytest.raises(ConfigError, match="MDW-104"):
        compose([f"federation.file={tmp_path / 'theirs.yaml'}"])
    with pytest.raises(ConfigError, match="MDW-104"):
        compose([f"federation.name='{name}'"])


@pytest.mark.parametrize(
    "key",
    [
        "silos.north.data.root",
        "silos.north.state",
        "silos.north.public_key",
        "silos.north.admission",
    ],
)
@pytest.mark.parametrize(
    "value", ["/etc", "../x", "a/../../x", "~/.ssh", ".ssh/id", "a/.git/x", "", "a\\..\\x", "link"]
)
def test_a_path_is_that_of_a_file_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    (tmp_path / "link").symlink_to("/etc")
    error = _refused(tmp_path, _nested(key, value), monkeypatch)
    assert error.code in ("MDW-114", "MDW-104")
    assert key in str(error)


@pytest.mark.parametrize("key", ["folder", "file"])
def test_it_says_nowhere_what_lies_where_on_the_reader_s_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    assert _refused(tmp_path, f"{key}: here", monkeypatch).code in ("MDW-114", "MDW-106")


ADDRESSES = [
    ("orchestrator.store", "https://evil.example/container"),
    ("orchestrator.store", "https://hub.blob.core.windows.net.evil.example/x"),
    ("orchestrator.store", "https://me:x@evil.example/hub.blob.core.windows.net/x"),
    ("orchestrator.store", "https://hub.blob.core.windows.net/federation/../other"),
    ("orchestrator.store", "/etc"),
    ("orchestrator.tracking", "azureml://evil.example/mlflow/v1.0/subscriptions/x"),
    ("orchestrator.tracking", "azureml://evil.example/x.api.azureml.ms/mlflow"),
    ("orchestrator.tracking", "https://evil.example"),
    ("orchestrator.tracking", "file:///etc"),
    ("orchestrator.key_vault", "evil.example/"),
    ("orchestrator.run_id", "../../x"),
    ("orchestrator.address", "evil.example/x:443"),
    ("silos.north.key_vault", "kv.evil/"),
    ("silos.north.state", "https://evil.example/x"),
    ("silos.north.state", "azureml://datastores/x/paths/../../y"),
    ("silos.north.compute", "cpu/../../x"),
]


@pytest.mark.parametrize(("key", "value"), ADDRESSES)
def test_an_address_that_gets_the_reader_s_token_is_azure_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    error = _refused(tmp_path, _nested(key, value), monkeypatch)
    assert error.code == "MDW-114"
    assert f"federation.{key}=" in (error.hint or "")


ITS_OWN_MISTAKES = {
    "silos: &a [*a]": "MDW-106",
    "size: " + "9" * 5000: "MDW-106",
    "size: 0x" + "f" * 5000: "MDW-106",
    "[" * 100_000: "MDW-106",
    "a: &a [x,x,x,x,x,x,x,x]\n"
    + "\n".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 8)}]" for i in range(15)
    ): "MDW-106",
}


@pytest.mark.parametrize("text", ITS_OWN_MISTAKES, ids=range(len(ITS_OWN_MISTAKES)))
def test_one_that_costs_more_than_a_file_may_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    assert _refused(tmp_path, text, monkeypatch).code == ITS_OWN_MISTAKES[text]


def test_what_came_with_the_file_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parcel = tmp_path / "parcel"
    (parcel / "clinics").mkdir(parents=True)
    (parcel / "hospitals.yaml").write_text(
        "name: hospitals\norchestrator: {ca: ca.pem}\n"
        "silos: {north: {data: {root: clinics/north}, public_key: north.pub}}\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    conf = compose(["federation.file=../parcel/hospitals.yaml"])
    (north,) = silos(conf)
    assert Path(str(north.data.root)).resolve() == parcel / "clinics" / "north"
    assert Path(str(conf.federation.orchestrator.ca)).resolve() == parcel / "ca.pem"
    folder = FederationFolder.of(conf.federation).path
    assert folder == elsewhere / ".meadow" / "hospitals"


def test_the_reader_s_own_words_may_say_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA", "/srv/data")
    (tmp_path / "theirs.yaml").write_text("silos: {north: {}}")
    (tmp_path / "mine.yaml").write_text("data: {root: '${oc.env:DATA}/xray'}\nthreads: 2\n")
    conf = compose(
        [
            f"federation.file={tmp_path / 'theirs.yaml'}",
            "federation.folder=/somewhere",
            "federation.orchestrator.tracking=http://127.0.0.1:5000",
            "federation.silos.north.state=/mnt/state",
        ]
    )
    assert conf.federation.folder == "/somewhere"
    assert conf.federation.silos["north"].state == "/mnt/state"
    (north,) = silos(with_own(conf, "north", tmp_path / "mine.yaml"))
    assert north.data.root == "/srv/data/xray"
    assert "DATA" in os.environ


def test_an_interpolation_of_an_owner_s_own_file_that_means_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    (tmp_path / "mine.yaml").write_text("data: {root: '${oc.env:NOT_THERE}'}\n")
    with pytest.raises(ConfigError, match=r"MDW-106.*NOT_THERE"):
        with_own(compose([]), "north", tmp_path / "mine.yaml")


def test_good_addresses_of_azure_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "theirs.yaml"
    file.write_text(
        "orchestrator:\n"
        "  store: https://flhub.blob.core.windows.net/federation/a-b\n"
        "  tracking: azureml://westeurope.api.azureml.ms/mlflow/v1.0/subscriptions/x/"
        "resourceGroups/fl/providers/Microsoft.MachineLearningServices/workspaces/hub\n"
        "  address: gateway.example.org:443\n"
        "silos: {north: {state: azureml://datastores/xray/paths/a/b, compute: gpu-north}}\n"
    )
    assert compose([f"federation.file={file}"]).federation.orchestrator.store is not None


def test_what_is_not_a_text_of_the_file_is_limited_by_its_type() -> None:
    """The dataclasses below hold texts with patterns of their own."""
    for cls in (WorkspaceConf, InputConf):
        for field in dataclasses.fields(cls):
            assert {"pattern", "one_of"} & set(field.metadata), field.name
