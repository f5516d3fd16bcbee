"""A job on Azure ML that is given a GPU knows it; a rehearsal of it on a machine without one goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from azureml_jobs.backends.sent_jobs import SentJobs
from azureml_jobs.rehearsal.job_environment import machine_variables
from client import placement
from client.placement import Placement, check_there
from conf.errors import SiloError
from conf.schema import Silo
from conf.silos import silo_from_json, silos
from tests.azure.federation import cheap_code
from tests.azureml_jobs.backends.test_sent_jobs import FEDERATION, conf, sent

__all__ = ["sent"]


@pytest.fixture
def given_one(tmp_path: Path, sent: SentJobs) -> Silo:
    """North's settings as its job gets them, where the federation's file gives it a GPU."""
    text = FEDERATION.replace("compute: gpu-north", "compute: gpu-north\n    gpus: 1")
    (tmp_path / "hospitals.yaml").write_text(text)
    jobs = SentJobs(conf(tmp_path), cheap_code(tmp_path / "tree-2"))
    jobs.dry_run(["north"], tmp_path / "dry")
    return silo_from_json((tmp_path / "dry/north/silo.json").read_text())


def test_the_job_knows_its_gpu_and_is_refused_without(
    given_one: Silo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(placement.VARIABLE, raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert given_one.gpus == 1
    with pytest.raises(SiloError, match="MDW-344"):
        check_there(given_one, "auto")
    # A simulation of the same file has what its machine has.
    assert {silo.gpus for silo in silos(conf(tmp_path))} == {0}


def test_a_rehearsal_plays_the_machine(given_one: Silo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(placement.VARIABLE, machine_variables({})[placement.VARIABLE])
    assert placement.given() == Placement(None)
    check_there(given_one, "auto")
