"""The jobs of others in a workspace: a list of jobs is long, in no order that is documented."""

from __future__ import annotations

import uuid

from azureml_jobs.rehearsal.resources import Json, Resources, stamp

_STATUSES = ("Completed", "Failed", "Canceled", "Running")
_SINCE = 1_700_000_000.0
_APART = 3_600.0


def add_foreign_jobs(resources: Resources, workspace: str, count: int) -> None:
    """Put jobs into a workspace that other people sent: none has a tag of a federation."""
    for number in range(count):
        name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{workspace} {number}"))
        resources.put(f"{workspace}/jobs/{name}", _job(number, workspace))
        job = resources.get(f"{workspace}/jobs/{name}")
        assert job is not None
        job["systemData"]["createdAt"] = stamp(_SINCE + number * _APART)


def _job(number: int, workspace: str) -> Json:
    return {
        "properties": {
            "jobType": "Command",
            "displayName": f"experiment {number}",
            "experimentName": "others",
            "status": _STATUSES[number % len(_STATUSES)],
            "command": "python train.py",
            "computeId": f"{workspace}/computes/others",
            "environmentId": f"{workspace}/environments/others/versions/1",
            "tags": {"team": "others"},
            "services": {},
            "isArchived": False,
        }
    }
