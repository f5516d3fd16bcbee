"""This tree as Flower's app bundle."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from conf.errors import IdentityError
from server.orchestrator.app_bundle import app_bundle
from server.orchestrator.open_run import name_and_version


def test_the_bundle_holds_what_a_silo_runs_and_nothing_of_tests_or_outputs() -> None:
    made = app_bundle()
    assert name_and_version(made)[0] == "meadow/meadow-federated"
    names = zipfile.ZipFile(io.BytesIO(made)).namelist()
    assert {"client/app.py", "conf/schema/run.py", "strategies/wire/protocol.py"} <= set(names)
    assert [name for name in names if name.startswith(("tests/", "outputs/"))] == []


def test_a_folder_that_is_no_app_is_named(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=f"MDW-758: Flower's app bundle of {tmp_path}"):
        app_bundle(tmp_path)
