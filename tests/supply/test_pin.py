"""Digests are what the registries say, and a registry that is not reached changes no file."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import yaml

from azureml_jobs.environments.bases import FOLDER, images
from supply import pin
from supply.pins import Pin, pins_of

DIGEST = "sha256:" + "1" * 64
AMD64 = "sha256:" + "2" * 64
WHEEL = "3" * 64
BASE = images()["silo"].base.image
INDEX = {
    "manifests": [
        {"digest": "sha256:" + "9" * 64, "platform": {"os": "linux", "architecture": "arm64"}},
        {"digest": AMD64, "platform": {"os": "linux", "architecture": "amd64"}},
    ]
}
MANIFEST = {"layers": [{"size": 30_000_000}, {"size": 15_400_000}]}


class Registry:
    """A registry that asks for a token first, and PyTorch's index beside it."""

    def __init__(self, **changes: httpx.Response) -> None:
        self.changes = changes

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        for part, response in self.changes.items():
            if part in path:
                return response
        if request.url.host == "download.pytorch.org":
            name = path.strip("/").split("/")[-1]
            version = {"torch": "2.14.1", "torchvision": "0.29.1"}[name]
            link = f"{name}-{version}%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl#sha256={WHEEL}"
            other = f"{name}-2.13.0%2Bcpu-cp311-cp311-linux_x86_64.whl#sha256={'4' * 64}"
            return httpx.Response(200, text=f'<a href="/whl/{link}">a</a> <a href="{other}">b</a>')
        if path == "/token":
            assert request.url.params["scope"] == "pull"
            return httpx.Response(200, json={"token": "t"})
        if request.headers.get("Authorization") != "Bearer t":
            where = 'Bearer realm="https://auth.example.org/token",scope="pull"'
            return httpx.Response(401, headers={"WWW-Authenticate": where})
        if path.endswith(AMD64):
            return httpx.Response(200, json=MANIFEST)
        return httpx.Response(200, json=INDEX, headers={"Docker-Content-Digest": DIGEST})


def client(registry: Registry) -> httpx.Client:
    return httpx.Client(transport=httpx.MockTransport(registry))


def test_a_registry_s_digest_and_the_size_for_one_platform_are_read() -> None:
    found = pin.published(BASE, client(Registry()))
    assert (found.digest, found.size_mb) == (DIGEST, 45)


def test_every_file_names_what_was_found() -> None:
    files = pin.written(client(Registry()))
    declared = yaml.safe_load(files[FOLDER / "bases.yaml"])
    by_image = {one["image"]: one for one in declared["bases"]}
    assert (by_image[BASE]["digest"], by_image[BASE]["size_mb"]) == (DIGEST, 45)
    others = [one["digest"] for image, one in by_image.items() if image != BASE]
    assert set(others) == {None}, "no image of ours stands on them"
    for image in images().values():
        text = files[image.folder / "Dockerfile"]
        assert f"FROM {BASE}@{DIGEST}\n" in text and "not pinned" not in text
    cpu = pins_of(files[FOLDER / "orchestrator" / "torch-cpu.txt"])
    assert [(one.key, one.hashes) for one in cpu] == [
        ("torch", (f"sha256:{WHEEL}",)),
        ("torchvision", (f"sha256:{WHEEL}",)),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"manifests": httpx.Response(503)},
        {"manifests": httpx.Response(200, json={})},
        {"manifests": httpx.Response(200, json=INDEX, headers={"Docker-Content-Digest": "md5:1"})},
        {"manifests": httpx.Response(401, headers={"WWW-Authenticate": 'Bearer realm="http://x"'})},
        {"torchvision": httpx.Response(200, text="")},
        {"token": httpx.Response(200, json={})},
    ],
)
def test_what_is_not_reached_or_no_answer_changes_nothing(
    changes: dict[str, httpx.Response],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def write(path: Path, text: str) -> None:
        raise AssertionError(f"{path} was written")

    monkeypatch.setattr(Path, "write_text", write)
    assert pin.main(lambda: client(Registry(**changes))) == pin.SKIPPED
    assert "skipped: nothing is pinned" in capsys.readouterr().out


def test_wheels_of_another_version_are_not_taken() -> None:
    with pytest.raises(ValueError, match=r"has no torch 9.0\+cpu"):
        pin.cpu_wheels(Pin("torch", "9.0"), client(Registry()))
