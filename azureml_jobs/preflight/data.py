"""The check of a silo's data: that it is in the silo's own workspace, and that it is not empty."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Protocol

from azureml_jobs.preflight.findings import WARNING, Finding, failed
from conf.errors import AzureError
from conf.schema import InputConf, WorkspaceConf

_SHORT: Final = re.compile(r"azureml://datastores/([^/]+)/paths/(.*)")
_LONG: Final = re.compile(
    r"azureml://subscriptions/([^/]+)/resource[gG]roups/([^/]+)"
    r"(?:/providers/Microsoft\.MachineLearningServices)?"
    r"/workspaces/([^/]+)/datastores/([^/]+)/paths/(.*)"
)
NOT_VISIBLE: Final = ("MDW-800", "MDW-801", "MDW-806")
"""The caller may not read it, or can't from here; the job has another identity and network."""


class DataView(Protocol):
    """What this check needs of a workspace. Raises AzureError."""

    def asset(self, name: str, version: str) -> str:
        """Return the address of a data asset; a version may be a label, such as `@latest`."""

    def content(self, datastore: str, path: str, *, file: bool) -> str:
        """Return the address of a file or folder in a datastore.

        Raises AzureError MDW-802 where there is nothing, MDW-801 where the caller may not look.
        """


def data(
    silo: str, workspace: DataView, workspace_conf: WorkspaceConf, input_conf: InputConf
) -> Iterator[Finding]:
    """Look at a silo's data with the caller's identity."""
    try:
        location = _location(workspace, workspace_conf, input_conf.path)
        if location is None:
            seen = f"{input_conf.path} is in no datastore, and was not read"
            fix = "Register it on a datastore of the silo's own workspace, so that it can be seen."
            yield Finding(silo, "data", WARNING, seen, fix)
            return
        datastore, path = location
        seen = workspace.content(datastore, path, file=input_conf.type == "uri_file")
        yield Finding(silo, "data", seen=seen)
    except AzureError as error:
        if error.code not in NOT_VISIBLE:
            yield failed(silo, "data", error)
            return
        seen = f"can't be seen from here with your identity: {error.message.rstrip('.')}"
        fix = (
            "The job's identity reads it. To see it from here you need the role Storage Blob Data"
            " Reader and a network route to it."
        )
        yield Finding(silo, "data", WARNING, seen, fix)


def _location(
    workspace: DataView, workspace_conf: WorkspaceConf, path: str
) -> tuple[str, str] | None:
    """Return datastore and path; None where an asset is outside every datastore."""
    if path.startswith("azureml://"):
        return _in_datastore(workspace_conf, path)
    name, _, version = path.removeprefix("azureml:").partition(":")
    if not version:
        name, _, label = name.partition("@")
        if not label:
            hint = "Write azureml:NAME:VERSION, or azureml:NAME@latest."
            raise AzureError("MDW-802", f"{path} names no version.", hint)
        version = f"@{label}"
    address = workspace.asset(name, version)
    if not address.startswith("azureml://"):
        return None
    return _in_datastore(workspace_conf, address)


def _in_datastore(workspace_conf: WorkspaceConf, uri: str) -> tuple[str, str]:
    short = _SHORT.fullmatch(uri)
    if short:
        return short[1], short[2]
    wanted = (
        f"{workspace_conf.subscription_id}/{workspace_conf.resource_group}/{workspace_conf.name}"
    )
    long = _LONG.fullmatch(uri)
    # Azure compares these names without regard to case.
    if long is None or f"{long[1]}/{long[2]}/{long[3]}".lower() != wanted.lower():
        hint = (
            "Write azureml://datastores/NAME/paths/PATH: a datastore of the silo's own workspace."
        )
        message = f"{uri} does not name a datastore of the silo's own workspace."
        raise AzureError("MDW-802", message, hint)
    return long[4], long[5]
