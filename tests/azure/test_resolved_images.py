"""A job whose packages can't be had for its base's Python ends before it runs, as on Azure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from azure.ai.ml import command
from azure.ai.ml.entities import BuildContext, Environment

from azureml_jobs.backends.workspace import Workspace
from azureml_jobs.environments.bases import Base
from azureml_jobs.environments.image_packages import Resolution
from azureml_jobs.rehearsal.executor import Job
from azureml_jobs.rehearsal.images import LOG, AnyImage
from azureml_jobs.rehearsal.rehearse import owner
from azureml_jobs.rehearsal.resolved_images import ResolvedImages
from tests.azure.federation import Federation, until

OLD = "mcr.microsoft.com/azureml/curated/acpt-pytorch-2.8-cuda12.6:latest"


def only_python_3_11(folder: Path, base: Base, variables: Mapping[str, str]) -> Resolution:
    """Resolve as an index would that has these packages for one Python alone."""
    assert (folder / "requirements.txt").read_text() == "flwr==1.42.0\n"
    if base.python == "3.11":
        return Resolution({"flwr": "1.42.0"})
    said = "the current Python version (3.10) does not satisfy Python>=3.11"
    return Resolution(log=said, refused=True)


@pytest.fixture
def images(federation: Federation) -> Iterator[ResolvedImages]:
    services = federation.cloud.executor.services
    services.images = ResolvedImages(services.resources, services.mounts, {}, only_python_3_11)
    yield services.images
    services.images = AnyImage()


def sent(federation: Federation, base: str) -> Job:
    """Send a job of north's whose image stands on a base."""
    context = federation.folder / "image"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {base}\nRUN true\n")
    (context / "requirements.txt").write_text("flwr==1.42.0\n")
    made = command(
        code=federation.code,
        command="echo at work",
        environment=Environment(build=BuildContext(path=str(context))),
        compute="gpu-north",
    )
    workspace = federation.rehearsal.conf().federation.silos["north"].workspace
    assert workspace is not None
    with federation.rehearsal.signed_in(owner("north")):
        name = str(Workspace(workspace)._client.jobs.create_or_update(made).name)
    return next(job for job in federation.cloud.executor.jobs.values() if job.name == name)


def test_an_image_that_resolves_runs(federation: Federation, images: ResolvedImages) -> None:
    job = sent(federation, "docker.io/library/python:3.11-slim")
    until(lambda: job.status == "Completed")
    assert "1 packages resolve" in (job.folder / LOG).read_text() and images.unknown == []


def test_an_image_of_the_same_content_is_resolved_once(
    federation: Federation, images: ResolvedImages
) -> None:
    asked = []

    def counted(folder: Path, base: Base, variables: Mapping[str, str]) -> Resolution:
        asked.append((folder / "requirements.txt").read_text())
        return Resolution({"flwr": "1.42.0"})

    images.resolve = counted
    container = federation.cloud.accounts.container
    for account, wanted in (("north", "1"), ("west", "1"), ("south", "2")):
        for name, text in (
            ("Dockerfile", "FROM docker.io/library/python:3.11-slim\n"),
            ("requirements.txt", f"flwr=={wanted}\n"),
        ):
            container(account, "images").upload_blob(f"one/{name}", text.encode(), overwrite=True)
        id = f"/environments/{account}"
        address = f"https://{account}.blob.core.windows.net/images/one"
        images.resources.put(id, {"properties": {"build": {"contextUri": address}}})
        assert not images.build(id).failed
    assert asked == ["flwr==1\n", "flwr==2\n"]


def test_one_that_does_not_fails_in_the_build_with_azure_s_log(
    federation: Federation, images: ResolvedImages
) -> None:
    job = sent(federation, OLD)
    until(lambda: job.status == "Failed")
    assert "does not satisfy Python>=3.11" in job.logs()[LOG].read_text()
    assert job.error_code == "ImageBuildFailure" and LOG in job.error
    assert not list(job.folder.glob("user_logs/*"))
    workspace = federation.rehearsal.conf().federation.silos["north"].workspace
    assert workspace is not None
    with federation.rehearsal.signed_in(owner("north")):
        told = Workspace(workspace).told(job.name)
    assert told.status == "Failed" and "Image build failed" in told.error


def test_a_base_that_nobody_declared_is_said_to_be_unknown(
    federation: Federation, images: ResolvedImages
) -> None:
    job = sent(federation, "example.org/base:1")
    until(lambda: job.status == "Completed")
    assert len(images.unknown) == 1
