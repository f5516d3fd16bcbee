"""The `az` lines of the pages by role are those of a recorded list, and at night the real CLI parses each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("orchestrator", "silo", "data-scientist")
RECORDED = Path(__file__).parent / "az_commands.txt"
EXTENSIONS = ("ml", "k8s-extension")
"""Groups of commands that azure-cli itself does not have."""


def commands_of(page: str) -> list[str]:
    """Return the `az` commands of a page's blocks for a shell, those within others too."""
    text = (ROOT / "docs" / "azure" / f"{page}.md").read_text()
    found = []
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            found += re.findall(r"\$\((az [^()]*)\)", line)
            if line.startswith("az "):
                found.append(line.strip())
    return found


def all_commands() -> list[str]:
    return list(dict.fromkeys(line for page in PAGES for line in commands_of(page)))


def test_the_commands_of_the_pages_are_the_recorded_ones() -> None:
    now = "".join(f"{line}\n" for line in all_commands())
    if os.environ.get("MEADOW_WRITE_AZ"):
        RECORDED.write_text(now)
    assert now == RECORDED.read_text(), "renew it with MEADOW_WRITE_AZ=1, and parse it at night"


def test_every_role_is_given_at_a_resource_and_no_variable_is_unset() -> None:
    for page in PAGES:
        known = {"SUBSCRIPTION"}
        text = (ROOT / "docs" / "azure" / f"{page}.md").read_text()
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
            for line in block.splitlines():
                if line.startswith("$schema"):
                    continue
                used = set(re.findall(r"\$([A-Z_]+)", line))
                assert used <= known, (page, line)
                known |= set(re.findall(r"^([A-Z_]+)=\$\(", line))
                if "role assignment create" in line:
                    assert "--scope $" in line and "--assignee" in line, (page, line)


def python_with_az() -> str | None:
    """Return the Python that has azure-cli: what MEADOW_AZ_PYTHON names, else that beside `az` on the path."""
    named = os.environ.get("MEADOW_AZ_PYTHON")
    az = shutil.which("az")
    beside = str(Path(az).with_name("python")) if az else None
    return named or (beside if beside and Path(beside).exists() else None)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_real_command_line_takes_every_command(tmp_path: Path) -> None:
    python = python_with_az()
    if python is None:
        pytest.skip(
            "azure-cli is not installed (pip install azure-cli, in an environment of its own)"
        )
    lines = [line for line in all_commands() if line.split()[1] not in EXTENSIONS]
    environment = {
        **os.environ,
        "AZURE_CONFIG_DIR": str(tmp_path),
        "AZURE_CORE_COLLECT_TELEMETRY": "false",
        # As after `az configure --defaults`.
        "AZURE_DEFAULTS_GROUP": "fl",
        "AZURE_DEFAULTS_LOCATION": "westeurope",
        # Nothing may be asked of anybody.
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    wrong = "az keyvault create --nme kv-hub"
    said = subprocess.run(
        [python, str(Path(__file__).with_name("az_parser.py"))],
        input="".join(f"{line}\n" for line in [*lines, wrong]),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=1200,
    ).stdout.splitlines()
    refused = {line: why for line, why in zip([*lines, wrong], said, strict=True) if why != "ok"}
    assert list(refused) == [wrong], refused
    print(f"{len(lines)} commands parsed", file=sys.stderr)
