"""What a job finds in its folder and what it leaves behind: copies stand in for Azure ML's mounts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import urlparse

from azureml_jobs.rehearsal.access import Access
from azureml_jobs.rehearsal.blobs import SUFFIX, Accounts
from azureml_jobs.rehearsal.resources import Resources

ARTIFACTS: Final = "azureml"
"""The container of `workspaceartifactstore`."""
_DATASTORE: Final = re.compile(
    r"azureml://(?:subscriptions/.*?/workspaces/[^/]+/)?datastores/([^/]+)/(?:paths/)?(.*)"
)


class MountFailed(Exception):
    """An input is missing or not the job's to read, or an output not its to write."""


@dataclass(frozen=True)
class Place:
    """A path in a container of an account; `by_identity` where the datastore holds no key of its own."""

    account: str
    container: str
    path: str
    by_identity: bool


@dataclass
class Mounts:
    """Copies between storage accounts and the folders of jobs, held to the table where a datastore has no key."""

    resources: Resources
    accounts: Accounts
    access: Access

    def place(self, workspace: str, uri: str) -> Place:
        """Return where an `azureml://datastores/...` address or a registered asset's id lies; raises MountFailed."""
        if uri.startswith("/subscriptions"):
            asset = self.resources.get(uri)
            if asset is None:
                raise MountFailed(f"there is no data asset {uri}")
            uri = asset["properties"]["dataUri"]
        match = _DATASTORE.fullmatch(uri)
        store = self.resources.get(f"{workspace}/datastores/{match[1]}") if match else None
        if match is None or store is None:
            raise MountFailed(
                f"{uri} names no datastore of the workspace {workspace.rpartition('/')[2]}"
            )
        about = store["properties"]
        by_identity = (about.get("credentials") or {}).get("credentialsType") == "None"
        return Place(about["accountName"], about["containerName"], match[2].strip("/"), by_identity)

    def snapshot(self, code: str, folder: Path) -> None:
        """Bring a job's code."""
        version = self.resources.get(code)
        if version is None:
            raise MountFailed(f"there is no code {code}")
        address = urlparse(version["properties"]["codeUri"])
        container, _, path = address.path.lstrip("/").partition("/")
        account = (address.hostname or "").removesuffix(f".{SUFFIX}")
        self._bring(Place(account, container, path, False), folder)

    def bring(self, identity: str, workspace: str, uri: str, folder: Path) -> None:
        """Bring an input; raises MountFailed where it is empty or the identity may not read it."""
        place = self.place(workspace, uri)
        self._allowed(identity, "read", place)
        if not self._bring(place, folder):
            raise MountFailed(f"there is nothing at {uri}")

    def keep(self, identity: str, workspace: str, uri: str, folder: Path) -> None:
        """Store an output; raises MountFailed where the identity may not write there."""
        place = self.place(workspace, uri)
        self._allowed(identity, "write", place)
        self.store(place, folder)

    def store(self, place: Place, folder: Path) -> None:
        """Store every file of a folder below a place."""
        container = self.accounts.container(place.account, place.container)
        for path in folder.rglob("*"):
            if path.is_file():
                name = PurePosixPath(place.path, path.relative_to(folder).as_posix())
                container.upload_blob(str(name), path.read_bytes(), overwrite=True)

    def _allowed(self, identity: str, action: str, place: Place) -> None:
        if not place.by_identity:
            return
        touch = self.access.allows(identity, action, f"storage:{place.account}")
        if not touch.allowed:
            why = f"it lacks the role '{touch.role}'"
            raise MountFailed(
                f"{identity} may not {action} the storage account {place.account}: {why}"
            )

    def _bring(self, place: Place, folder: Path) -> int:
        container = self.accounts.container(place.account, place.container)
        folder.mkdir(parents=True, exist_ok=True)
        found = 0
        for name in container.list_blob_names(name_starts_with=place.path):
            below = PurePosixPath(
                name.removeprefix(place.path).lstrip("/") or PurePosixPath(name).name
            )
            if name != place.path and place.path and not name.startswith(f"{place.path}/"):
                continue
            target = folder / below
            if ".." in below.parts:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(container.download_blob(name).readall())
            found += 1
        return found
