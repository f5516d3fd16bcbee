"""A check's look at a silo's data: that it is the silo's own, and that there is something."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Protocol

from azureml_jobs.preflight.findings import WARNING, Finding, failed
from conf.errors import AzureError
from conf.schema import InputConf, WorkspaceConf

_SHORT: Final = re.compile(r"azureml://datastores/([^/]+)/paths/(.*)")
_LONG: Final = re.compile(
    r"azureml://subscriptions/([^/]+)/resource[gG]roups/([^/]+)(?:/providers/Microsoft\.MachineLearningServices)?"
    r"/workspaces/([^/]+)/datastores/([^/]+)/paths/(.*)"
)
UNSEEN: Final = ("MDW-800", "MDW-801")
"""The caller may not look, or can't from here; the job's identity and network are others."""


class DataView(Protocol):
    """What this look asks of a workspace. Raises AzureError."""

    def asset(self, name: str, version: str) -> str:
        """Return where a data asset lies."""

    def content(self, datastore: str, path: str, *, file: bool) -> str:
        """Return the address of what lies there; MDW-802 where there is nothing, MDW-801 where one may not look."""


def data(
    place: str, workspace: DataView, own: WorkspaceConf, given: InputConf
) -> Iterator[Finding]:
    """Look at a silo's data as the caller."""
    try:
        where = _place(workspace, own, given.path)
        if where is None:
            fix = "Register it on a datastore of the silo's own workspace, so that it can be looked at."
            yield Finding(
                place,
                "data",
                WARNING,
                f"{given.path} lies in no datastore, and was not looked into",
                fix,
            )
            return
        yield Finding(place, "data", seen=workspace.content(*where, file=given.type == "uri_file"))
    except AzureError as error:
        if error.code not in UNSEEN:
            yield failed(place, "data", error)
            return
        fix = "The job's identity reads it. To see it from here: the role Storage Blob Data Reader, and a route to it."
        yield Finding(
            place,
            "data",
            WARNING,
            f"not to be seen as you from here: {error.message.rstrip('.')}",
            fix,
        )


def _place(workspace: DataView, own: WorkspaceConf, path: str) -> tuple[str, str] | None:
    """Return datastore and path; None where an asset lies at an address of its own."""
    if path.startswith("azureml://"):
        return _of(own, path)
    name, _, version = path.removeprefix("azureml:").partition(":")
    if not version:
        raise AzureError("MDW-802", f"{path} names no version.", "Write azureml:NAME:VERSION.")
    lies = workspace.asset(name, version)
    return _of(own, lies) if lies.startswith("azureml://") else None


def _of(own: WorkspaceConf, uri: str) -> tuple[str, str]:
    if match := _SHORT.fullmatch(uri):
        return match[1], match[2]
    match = _LONG.fullmatch(uri)
    mine = (own.subscription_id, own.resource_group, own.name)
    if match is None or tuple(map(str.lower, match.group(1, 2, 3))) != tuple(map(str.lower, mine)):
        hint = (
            "Write azureml://datastores/NAME/paths/PATH: a datastore of the silo's own workspace."
        )
        raise AzureError(
            "MDW-802", f"{uri} does not name a datastore of the silo's own workspace.", hint
        )
    return match[4], match[5]
