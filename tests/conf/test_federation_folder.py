"""Where a federation of this machine keeps what lasts: one folder, apart from every other's."""

from __future__ import annotations

from pathlib import Path

import pytest

from azureml_jobs.storage.rights import PLACES
from conf.federation_folder import FederationFolder
from conf.schema import FederationConf


def test_it_is_named_after_the_federation_and_does_not_move_with_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = FederationFolder.of(FederationConf(name="hospitals"))
    monkeypatch.chdir("/")
    assert folder.path == tmp_path / ".meadow" / "hospitals"


def test_a_folder_that_is_named_is_taken(tmp_path: Path) -> None:
    conf = FederationConf(name="hospitals", folder=str(tmp_path / "here"))
    assert FederationFolder.of(conf).path == tmp_path / "here"


def test_the_orchestrator_s_secrets_its_store_and_each_job_lie_apart(tmp_path: Path) -> None:
    folder = FederationFolder(tmp_path)
    places = [
        folder.keys,
        folder.store,
        *(folder.place(name) for name in PLACES),
        folder.rendezvous,
        folder.job("server"),
        folder.job("silo-north"),
    ]
    assert len(set(places)) == len(places)
    for place in places:
        assert place.is_relative_to(tmp_path)
        assert not any(place in other.parents for other in places)
