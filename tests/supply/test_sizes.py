"""An image's size is an estimate that says what it could not count."""

from __future__ import annotations

import dataclasses

from azureml_jobs.environments.bases import images
from supply.pins import read
from supply.sizes import estimate, installed

SILO = images()["silo"]
SIZES = {pin.key: 10_000_000 for pin in read(SILO.folder / "requirements.lock")}


def test_packages_are_added_up_and_the_base_s_published_size_is_said() -> None:
    whole = len(SIZES) / 100
    line = estimate(SILO, SIZES)
    assert f"an estimate of {whole:.2f} GB of packages, and its base, whose size nobody" in line
    pinned = dataclasses.replace(SILO, base=dataclasses.replace(SILO.base, size_mb=45))
    assert "and 0.04 GB of its base, compressed" in estimate(pinned, SIZES)


def test_what_is_not_installed_here_is_named_and_not_counted() -> None:
    without = {key: size for key, size in SIZES.items() if key != "scipy"}
    line = estimate(SILO, without)
    assert f"{len(without) / 100:.2f} GB" in line and "without 1 that are not installed" in line
    older = estimate(images()["silo-cuda12"], SIZES)
    assert "nvidia-cublas-cu12" in older
    orchestrator = images()["orchestrator"]
    own = {pin.key: 1_000_000 for pin in read(orchestrator.folder / "requirements.lock")}
    cpu = estimate(orchestrator, SIZES | own)
    assert "without 2 that are not installed here (torch…)" in cpu


def test_this_environment_s_packages_have_sizes() -> None:
    found = installed()
    assert found["numpy"] > 1_000_000 and found["pyyaml"] > 100_000
