"""The certificate of the second port."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from server.orchestrator.tls import server_context
from tests.faults.federation import Federation


def test_no_private_key_is_left_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Federation(tmp_path).credentials()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    server_context(given)
    assert set(tmp_path.iterdir()) == before
