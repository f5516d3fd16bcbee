"""The lock can be had for the Python and platform of each image's base, and not for an older one's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from azureml_jobs.environments.bases import Base, bases, images
from azureml_jobs.environments.image_packages import Resolution, resolve, resolved
from supply.pins import read

OLD = next(base for base in bases().values() if base.python == "3.10")
CURRENT = images()["silo"].base


@pytest.fixture(autouse=True)
def _asks_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "20")
    yield


def reached(outcome: Resolution) -> Resolution:
    """Return an outcome; skip the test where no index can be reached."""
    if not outcome.asked:
        pytest.skip(f"no package index was reached: {outcome.log[-200:]}")
    return outcome


@pytest.mark.parametrize("name", sorted(images()))
def test_an_image_s_packages_can_be_had_for_its_base(name: str) -> None:
    image = images()[name]
    found = reached(resolve(image.folder, image.base))
    assert not found.refused, found.log
    lock = {pin.key: pin.version for pin in read(image.folder / "constraints.txt")}
    assert found.versions.items() <= lock.items()
    assert {"flwr", "torch", "torchvision"} <= found.versions.keys()


def test_a_base_with_an_older_python_is_refused_in_the_resolver_s_words() -> None:
    found = reached(resolve(images()["silo"].folder, OLD))
    assert found.refused and found.versions == {}
    assert "flwr" in found.log and "3.11" in found.log


def test_a_package_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("flwr==999.0\n")
    found = reached(resolve(tmp_path, CURRENT))
    assert found.refused and "flwr" in found.log


def test_an_index_that_is_not_reached_is_no_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    (tmp_path / "requirements.txt").write_text("flwr\n")
    found = resolve(tmp_path, CURRENT)
    assert not found.refused and not found.asked and found.log
    monkeypatch.setenv("UV_OFFLINE", "1")
    assert not resolve(tmp_path, CURRENT).asked


def test_settings_beside_the_files_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("six==1.17.0\n")
    (tmp_path / "uv.toml").write_text('[[index]]\nurl = "http://127.0.0.1:9/"\ndefault = true\n')
    assert reached(resolve(tmp_path, CURRENT)).versions == {"six": "1.17.0"}


def test_wheels_for_another_platform_are_not_taken(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("nvidia-cufile==1.15.1.6\n")
    found = resolved([tmp_path / "requirements.txt"], Base("x:1", "3.11", "manylinux_2_5_x86_64"))
    assert reached(found).refused
