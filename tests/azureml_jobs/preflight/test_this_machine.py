"""`meadow check` for a federation on this machine: what would keep its jobs from starting is told before they do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from azureml_jobs.cli.main import main
from azureml_jobs.identity.authority import CA_KEY, make_ca
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.preflight.findings import Finding
from azureml_jobs.preflight.this_machine import check
from conf.compose import compose
from conf.errors import ConfigError
from conf.schema import Silo
from conf.silos import silos

OWN = "federation.silos.north.data={root: %s, partition: own}"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o700)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def errors(*overrides: str, running: dict[str, Silo | None] | None = None) -> list[Finding]:
    conf = compose(list(overrides))
    return check(conf, True, silos(conf), running or {}).errors


def test_a_new_federation_has_nothing_that_would_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert errors() == []
    assert main(["check"]) == 0
    shown = capsys.readouterr().out
    assert "made at the first launch" in shown and "silo-3" in shown


def test_a_folder_that_can_not_be_made_is_an_error(folder: Path) -> None:
    (folder / "file").write_text("")
    (found,) = errors(f"federation.folder={folder / 'file' / 'below'}")
    assert found.check == "folder" and str(folder / "file") in found.seen
    assert main(["check", f"run.output={folder / 'file'}"]) == 9


def test_a_ca_without_its_key_is_an_error(folder: Path) -> None:
    secrets = FolderSecrets(folder / ".meadow/federation/keys")
    make_ca(secrets, "federation", datetime.now(UTC))
    assert errors() == []
    (folder / ".meadow/federation/keys" / CA_KEY).unlink()
    (found,) = errors()
    assert found.check == "CA" and found.security and "MDW-700" in found.seen


def test_a_silo_whose_own_data_is_not_there_is_an_error(folder: Path) -> None:
    (found,) = errors(OWN % (folder / "nothing"))
    assert (found.part, found.check) == ("north", "data")
    assert errors(OWN % folder) == []


def test_a_place_for_a_silo_s_state_that_can_not_be_written_is_an_error(folder: Path) -> None:
    (folder / "file").write_text("")
    (found,) = errors(f"federation.silos.north.state={folder / 'file' / 'below'}")
    assert (found.part, found.check) == ("north", "state")
    assert errors(f"federation.silos.north.state={folder / 'own'}") == []


@pytest.mark.parametrize("state", ["http://a/b", "s3://bucket", "azureml:data:1"])
def test_a_place_that_is_none_is_refused(state: str) -> None:
    with pytest.raises(ConfigError, match=r"MDW-104.*federation\.silos\.north\.state"):
        errors(f"federation.silos.north.state={state}")


def test_a_silo_that_runs_with_other_settings_is_an_error() -> None:
    conf = compose([])
    first = silos(conf)[0]
    assert errors(running={"silo-1": first}) == []
    (found,) = errors(running={"silo-1": replace(first, threads=7)})
    assert found.part == "silo-1" and "meadow stop silo=silo-1" in found.fix


def test_a_role_is_shown_its_own_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "as=silo:silo-2"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {"silo-2"}
    assert main(["check", "as=orchestrator"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {"orchestrator"}
