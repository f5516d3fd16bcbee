"""Fills in what only the registries know: `python supply/pin.py`, on a machine that reaches them.

    azureml_jobs/environments/bases.yaml          the digest and the published size of each base
    azureml_jobs/environments/*/Dockerfile        FROM image:tag@sha256:...
    azureml_jobs/environments/orchestrator/       hashes of the wheels for a CPU, in torch-cpu.txt

Asks each registry by its HTTP interface (the OCI distribution specification), without signing in, and
PyTorch's index by PEP 503. Ends with 75 where one was not reached, and then changes nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from azureml_jobs.environments.bases import FOLDER, bases, images  # noqa: E402
from supply.pins import Pin, read, text_of  # noqa: E402

SKIPPED: Final = 75
SECONDS: Final = 30.0
MANIFESTS: Final = ", ".join(
    [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ]
)
CPU_INDEX: Final = "https://download.pytorch.org/whl/cpu"
LARGEST: Final = 8 * 2**20
"""Bytes of an answer that is read."""
NOT_PINNED: Final = "; the base is not pinned to a digest there yet."


@dataclass(frozen=True)
class Published:
    """What a registry says of an image."""

    digest: str
    size_mb: int | None


def published(image: str, client: httpx.Client) -> Published:
    """Ask an image's registry for its digest, and for the compressed size on linux/amd64.

    Raises httpx.HTTPError where it is not reached, ValueError where its answer is not one.
    """
    registry, _, rest = image.partition("/")
    repository, _, tag = rest.rpartition(":")
    host = "registry-1.docker.io" if registry == "docker.io" else registry
    address = f"https://{host}/v2/{repository}/manifests"
    headers = {"Accept": MANIFESTS}
    first = client.get(f"{address}/{tag}", headers=headers)
    if first.status_code == 401:
        headers["Authorization"] = f"Bearer {_token(first, client)}"
        first = client.get(f"{address}/{tag}", headers=headers)
    manifest = _json(first)
    digest = first.headers.get("Docker-Content-Digest", "")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ValueError(f"{image}: the registry names no digest")
    if "manifests" in manifest:
        chosen = [one["digest"] for one in manifest["manifests"] if _is_amd64(one)]
        if not chosen:
            raise ValueError(f"{image}: there is none for linux/amd64")
        manifest = _json(client.get(f"{address}/{chosen[0]}", headers=headers))
    layers = manifest.get("layers") or []
    size = sum(int(layer["size"]) for layer in layers)
    return Published(digest, round(size / 1e6) if size else None)


def _is_amd64(manifest: dict[str, Any]) -> bool:
    platform = manifest.get("platform") or {}
    return (platform.get("os"), platform.get("architecture")) == ("linux", "amd64")


def _token(refused: httpx.Response, client: httpx.Client) -> str:
    """Return the token for anonymous pulls that a registry's refusal says where to ask for."""
    said = dict(re.findall(r'(\w+)="([^"]*)"', refused.headers.get("WWW-Authenticate", "")))
    if not said.get("realm", "").startswith("https://"):
        raise ValueError("the registry does not say where its tokens are")
    answer = client.get(said.pop("realm"), params=said)
    return str(_json(answer)["token"])


def _json(response: httpx.Response) -> dict[str, Any]:
    response.raise_for_status()
    if len(response.content) > LARGEST:
        raise ValueError(f"{response.url}: an answer of {len(response.content)} bytes")
    found: dict[str, Any] = response.json()
    return found


def cpu_wheels(pin: Pin, client: httpx.Client) -> Pin:
    """Return torch or torchvision with the hashes of its wheels for a CPU."""
    page = client.get(f"{CPU_INDEX}/{pin.key}/")
    page.raise_for_status()
    name = rf"{re.escape(pin.key)}-{re.escape(pin.version)}(?:%2B|\+)cpu-[\w.-]+\.whl"
    hashes = sorted(set(re.findall(rf"{name}#sha256=([0-9a-f]{{64}})", page.text)))
    if not hashes:
        raise ValueError(f"{CPU_INDEX} has no {pin.name} {pin.version}+cpu")
    return Pin(pin.name, pin.version, hashes=tuple(f"sha256:{one}" for one in hashes))


def pinned(text: str, image: str, found: Published) -> str:
    """Return bases.yaml with an image's digest and size."""
    begins = text.index(f"  - image: {image}\n")
    ends = text.find("  - image: ", begins + 1)
    ends = ends if ends >= 0 else text.index("\nimages:")
    part = re.sub(r"digest: .*", f'digest: "{found.digest}"', text[begins:ends])
    size = "null" if found.size_mb is None else str(found.size_mb)
    part = re.sub(r"size_mb: \S+", f"size_mb: {size}", part)
    return text[:begins] + part + text[ends:]


def written(client: httpx.Client) -> dict[Path, str]:
    """Return every file as it is with digests and hashes."""
    used = {image.base.image for image in images().values()}
    answers = {image: published(image, client) for image in bases() if image in used}
    text = (FOLDER / "bases.yaml").read_text()
    for image, found in answers.items():
        text = pinned(text, image, found)
    files = {FOLDER / "bases.yaml": text}
    for one in images().values():
        dockerfile = one.folder / "Dockerfile"
        reference = f"{one.base.image}@{answers[one.base.image].digest}"
        said = dockerfile.read_text().replace(NOT_PINNED, ", its digest too.")
        files[dockerfile] = re.sub(r"(?m)^FROM .+$", f"FROM {reference}", said)
    cpu = FOLDER / "orchestrator" / "torch-cpu.txt"
    heading = "Of PyTorch's index of CPU wheels; written by supply/pin.py.\n"
    files[cpu] = text_of([cpu_wheels(pin, client) for pin in read(cpu)], heading)
    return files


def main(make: Callable[[], httpx.Client] | None = None) -> int:
    """Write the files, or say what was not reached and change nothing."""
    with (make or (lambda: httpx.Client(timeout=SECONDS, follow_redirects=True)))() as client:
        try:
            files = written(client)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            print(f"skipped: nothing is pinned: {type(error).__name__}: {error}")
            return SKIPPED
    for path, text in files.items():
        path.write_text(text)
        print(path.relative_to(ROOT), "written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
