"""An NVIDIA driver that is too old for torch's CUDA is said before data is read, with what is needed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from azureml_jobs.environments.bases import images
from client import driver
from client.driver import OLDEST, Driver, check, found
from client.node import job
from conf.compose import compose
from conf.errors import ConfigError
from conf.silos import silo_to_json
from conf.silos import silos as silos_of

OLD = Driver((12, 4), "550.144.03")


def library(folder: Path, version: int, status: int = 0) -> str:
    """Build a stand-in for NVIDIA's library that says which CUDA its driver runs."""
    source = folder / "cuda.c"
    source.write_text(
        f"int cuDriverGetVersion(int *version) {{ *version = {version}; return {status}; }}\n"
    )
    made = folder / f"libcuda-{version}-{status}.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", made, source], check=True)
    return str(made)


def test_what_the_driver_says_of_itself_is_read(tmp_path: Path) -> None:
    release = tmp_path / "version"
    release.write_text("580.95.05\n")
    assert found(library(tmp_path, 13000), release) == Driver((13, 0), "580.95.05")
    assert found(library(tmp_path, 12080), tmp_path / "none") == Driver((12, 8))


def test_a_node_without_a_driver_has_none(tmp_path: Path) -> None:
    assert found(str(tmp_path / "libcuda.so.1")) is None
    assert found(library(tmp_path, 0)) is None
    assert found(library(tmp_path, 12080, status=3)) is None
    assert found("libc.so.6") is None, "another library, without that call"


@pytest.mark.parametrize("device", [None, "auto", "cuda", "cuda:1"])
def test_found_and_needed_are_said(device: str | None) -> None:
    with pytest.raises(ConfigError, match="MDW-143") as raised:
        check("north", device, "13.0", OLD)
    message = str(raised.value)
    assert "north: this node has driver 550.144.03 (CUDA 12.4)" in message
    assert "torch needs driver 580 or newer (CUDA 13.0)" in message
    assert "silo-cuda12" in message


@pytest.mark.parametrize(
    ("device", "cuda", "there"),
    [
        ("cpu", "13.0", OLD),
        ("mps", "13.0", OLD),
        ("auto", None, OLD),
        ("auto", "13.0", None),
        ("auto", "13.0", Driver((13, 0))),
        ("cuda", "13.1", Driver((13, 0))),
        ("cuda", "12.8", Driver((12, 2))),
        ("cuda", "12.8", Driver((13, 0))),
    ],
)
def test_what_will_do_passes(device: str, cuda: str | None, there: Driver | None) -> None:
    check("north", device, cuda, there)


def test_a_cuda_that_nobody_knows_of_is_refused_all_the_same() -> None:
    with pytest.raises(ConfigError, match=r"a driver for CUDA 13.0; torch needs one for CUDA 14.1"):
        check("north", "auto", "14.1", Driver((13, 0)))


def test_the_images_declare_the_same_driver() -> None:
    for image in images().values():
        if image.cuda is not None:
            assert image.driver == OLDEST[int(image.cuda.partition(".")[0])], image.name


def test_a_silo_asks_before_it_looks_for_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (silo,) = silos_of(compose(["federation.size=1"]))
    settings = job.NodeSettings(silo=silo_to_json(silo), ca=tmp_path / "none.pem")
    monkeypatch.setattr(driver, "found", lambda: OLD)
    monkeypatch.setattr(driver, "cuda_of_torch", lambda: "13.0")
    with pytest.raises(ConfigError, match="MDW-143"):
        job.make_node(settings)
