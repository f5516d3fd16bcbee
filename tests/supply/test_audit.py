"""What an audit found, found nothing of, or could not ask are three different ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from supply import audit
from supply.audit import FINE, FOUND, SKIPPED, Unreachable, judged

GOOD: dict[str, Any] = {"name": "numpy", "version": "2.4.6", "vulns": []}
FLAW = {"id": "PYSEC-1", "fix_versions": ["2.0"]}
BAD: dict[str, Any] = {"name": "jinja2", "version": "1.0", "vulns": [FLAW]}
UNKNOWN: dict[str, Any] = {"name": "flwr", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("dependencies", "outcome", "line"),
    [
        ([GOOD], FINE, "a.lock: 1 packages, no known vulnerability"),
        ([GOOD, BAD], FOUND, "a.lock: jinja2 1.0: PYSEC-1, fixed in 2.0"),
        ([GOOD, UNKNOWN], SKIPPED, "skipped: a.lock: the service knows nothing of 1 of 2 packages"),
        ([BAD, UNKNOWN], FOUND, "PYSEC-1"),
    ],
)
def test_what_a_service_says_of_a_lock(
    dependencies: list[dict[str, Any]],
    outcome: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert judged("a.lock", dependencies) == outcome
    assert line in capsys.readouterr().out


def test_the_worst_outcome_is_the_audit_s(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away() -> int:
        raise Unreachable("no route")

    parts = {"fine": lambda: FINE, "away": away}
    monkeypatch.setattr(audit, "PARTS", parts)
    monkeypatch.setattr(sys, "argv", ["audit.py"])
    assert audit.main() == SKIPPED
    assert "skipped: away: no route" in capsys.readouterr().out
    parts["bad"] = lambda: FOUND
    assert audit.main() == FOUND
    monkeypatch.setattr(sys, "argv", ["audit.py", "fine"])
    assert audit.main() == FINE


def test_a_tool_that_can_not_be_installed_is_skipped_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr("venv.create", lambda folder, **_: folder.mkdir(exist_ok=True))
    failed = subprocess.CompletedProcess([], 1, "", "first\nno index\n")
    monkeypatch.setattr(audit, "_run", lambda _: failed)
    for _ in range(2):
        with pytest.raises(Unreachable, match="pip-audit can't be installed: no index"):
            audit.tool("pip-audit", "pip-audit")
    ended = subprocess.CompletedProcess([], 0, "said", "")
    monkeypatch.setattr(audit, "_run", lambda _: ended)
    assert audit.tool("pip-audit", "pip-audit").stdout == "said"
    assert (tmp_path / "pip-audit" / "installed").is_file()


@pytest.mark.slow
def test_dockerfiles_compose_file_and_manifests_are_clean() -> None:
    done = subprocess.run(
        [sys.executable, "supply/audit.py", "dockerfiles", "compose", "manifests", "sbom"],
        cwd=audit.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (FINE, SKIPPED), done.stdout + done.stderr
