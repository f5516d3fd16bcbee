"""A job's code, inputs and outputs: copies, where Azure ML mounts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import urlparse

from azure.storage.blob import BlobProperties, ContainerClient

from azureml_jobs.rehearsal.access import Access
from azureml_jobs.rehearsal.blobs import SUFFIX, Accounts
from azureml_jobs.rehearsal.firewalls import Firewalls
from azureml_jobs.rehearsal.resources import Resources

ARTIFACTS: Final = "azureml"
"""The container of `workspaceartifactstore`."""
_DATASTORE: Final = re.compile(
    r"azureml://(?:subscriptions/.*?/workspaces/[^/]+/)?datastores/([^/]+)/(?:paths/)?(.*)"
)


_KEPT_BYTES: Final = 2**20
"""Of a blob that is kept for the next job with the same one: the code of a federation's jobs."""


class MountFailed(Exception):
    """An input is missing or the job may not read it, or the job may not write an output."""


@dataclass(frozen=True)
class BlobLocation:
    """A path in a container of an account; `by_identity` where the datastore holds no key."""

    account: str
    container: str
    path: str
    by_identity: bool


@dataclass
class Mounts:
    """Copies between storage accounts and jobs' folders; asks the access table without a key."""

    resources: Resources
    accounts: Accounts
    access: Access
    firewalls: Firewalls
    _kept: dict[bytes, bytes] = field(default_factory=dict)
    """Contents by their MD5: each job has the same code, in another account, five hundred files."""

    def location(self, workspace: str, uri: str) -> BlobLocation:
        """Return the location of an `azureml://datastores/...` address or a data asset's id.

        Raises MountFailed.
        """
        if uri.startswith("/subscriptions"):
            asset = self.resources.get(uri)
            if asset is None:
                raise MountFailed(f"there is no data asset {uri}")
            uri = asset["properties"]["dataUri"]
        match = _DATASTORE.fullmatch(uri)
        store = self.resources.get(f"{workspace}/datastores/{match[1]}") if match else None
        if match is None or store is None:
            name = workspace.rpartition("/")[2]
            raise MountFailed(f"{uri} names no datastore of the workspace {name}")
        properties = store["properties"]
        by_identity = (properties.get("credentials") or {}).get("credentialsType") == "None"
        path = match[2].strip("/")
        return BlobLocation(
            properties["accountName"], properties["containerName"], path, by_identity
        )

    def snapshot(self, code: str, folder: Path) -> None:
        """Download a job's code."""
        version = self.resources.get(code)
        if version is None:
            raise MountFailed(f"there is no code {code}")
        self.uploaded(version["properties"]["codeUri"], folder)

    def uploaded(self, address: str, folder: Path) -> None:
        """Download what a client has uploaded to an address of a blob container."""
        parts = urlparse(address)
        container, _, path = parts.path.lstrip("/").partition("/")
        account = (parts.hostname or "").removesuffix(f".{SUFFIX}")
        location = BlobLocation(account, container, path.strip("/"), by_identity=False)
        self._download(location, folder)

    def download(self, identity: str, workspace: str, uri: str, folder: Path) -> None:
        """Download an input; raises MountFailed where it is empty or may not be read."""
        location = self.location(workspace, uri)
        self._check_access(identity, "read", location)
        if not self._download(location, folder):
            raise MountFailed(f"there is nothing at {uri}")

    def upload(self, identity: str, workspace: str, uri: str, folder: Path) -> None:
        """Upload an output; raises MountFailed where the identity may not write there."""
        location = self.location(workspace, uri)
        self._check_access(identity, "write", location)
        self.store(location, folder)

    def store(self, location: BlobLocation, folder: Path) -> None:
        """Upload every file of a folder to a location, without asking the access table."""
        container = self.accounts.container(location.account, location.container)
        for path in folder.rglob("*"):
            if path.is_file():
                name = PurePosixPath(location.path, path.relative_to(folder).as_posix())
                container.upload_blob(str(name), path.read_bytes(), overwrite=True)

    def _check_access(self, identity: str, action: str, location: BlobLocation) -> None:
        if self.firewalls.stops(identity, f"storage:{location.account}"):
            raise MountFailed(
                f"{identity} does not reach the storage account {location.account}: AuthorizationFailure,"
                " this request is not authorized to perform this operation"
            )
        if not location.by_identity:
            return
        resource = f"storage:{location.account}/{location.container}"
        access = self.access.allows(identity, action, resource)
        if not access.allowed:
            raise MountFailed(
                f"{identity} may not {action} the {resource.replace(':', ' ')}:"
                f" it lacks the role '{access.role}'"
            )

    def _download(self, location: BlobLocation, folder: Path) -> int:
        """Download what is at a location, a file or everything below it; return the file count."""
        container = self.accounts.container(location.account, location.container)
        folder.mkdir(parents=True, exist_ok=True)
        files = 0
        for blob in container.list_blobs(name_starts_with=location.path):
            name = blob.name
            # The prefix `data` also lists `data-2/...`, which is another folder.
            inside = not location.path or name.startswith(f"{location.path}/")
            if not inside and name != location.path:
                continue
            relative = name.removeprefix(location.path).lstrip("/")
            path = PurePosixPath(relative or PurePosixPath(name).name)
            # A blob's name is what somebody uploaded: it must not lead out of the folder.
            if ".." in path.parts:
                continue
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self._content(container, blob))
            files += 1
        return files

    def _content(self, container: ContainerClient, blob: BlobProperties) -> bytes:
        digest = bytes(blob.content_settings.content_md5 or b"")
        found = self._kept.get(digest) if digest else None
        if found is None:
            found = bytes(container.download_blob(blob.name).readall())
            if digest and len(found) <= _KEPT_BYTES:
                self._kept[digest] = found
        return found
