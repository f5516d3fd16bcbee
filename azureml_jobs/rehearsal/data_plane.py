"""`<region>.api.azureml.ms`: run history, logs, outputs and artefacts of a workspace's jobs, and its MLflow."""

from __future__ import annotations

import base64
import re
import secrets
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from azureml_jobs.rehearsal.access import Access
from azureml_jobs.rehearsal.answers import forbidden, not_found, not_signed_in
from azureml_jobs.rehearsal.arm import AUDIENCES
from azureml_jobs.rehearsal.blobs import Accounts
from azureml_jobs.rehearsal.executor import Executor, Job, run_audience
from azureml_jobs.rehearsal.mlflow_tracking import MlflowTracking
from azureml_jobs.rehearsal.model_registry import ModelRegistry
from azureml_jobs.rehearsal.mounts import ARTIFACTS
from azureml_jobs.rehearsal.resources import Address, Json, Resources, stamp
from azureml_jobs.rehearsal.tokens import NotSignedIn, Tokens

REGION: Final = "loopback"
HOST: Final = f"{REGION}.api.azureml.ms"
_SERVICE: Final = re.compile(
    r"/(history|data|mlflow)/v[\d.]+(/subscriptions/.+?/workspaces/[^/]+)/(.+)", re.IGNORECASE
)
_ARTIFACTS: Final = re.compile(
    r"experiments/[^/]+/runs/([^/]+)/artifacts(/batch/metadata|/contentinfo)?"
)
_MLFLOW: Final = "api/2.0/mlflow/"
_WRITES: Final = ("create", "update", "log-batch", "log-metric", "log-parameter", "set-tag")


@dataclass
class DataPlane:
    """Answers for every workspace: all are in one region here."""

    resources: Resources
    accounts: Accounts
    tokens: Tokens
    access: Access
    executor: Executor
    tracking: MlflowTracking
    registry: ModelRegistry
    _logs: dict[str, Job] = field(default_factory=dict)  # by the unguessable part of their address

    async def answer(self, request: Request) -> Response | None:
        """Return the answer, or None for a request that the stand-in does not know."""
        path = request.url.path
        if path == "/discovery":
            return JSONResponse(
                dict.fromkeys(("api", "history", "studio", "modelmanagement"), f"https://{HOST}")
            )
        if path.startswith("/logs/"):
            return self._log(*path.removeprefix("/logs/").split("/", 1))
        match = _SERVICE.fullmatch(path)
        if match is None:
            return None
        service, workspace, rest = match[1].lower(), match[2], match[3]
        if (refusal := self._refusal(request, service, workspace, rest)) is not None:
            return refusal
        body = await request.json() if request.method != "GET" else _query(request)
        if service == "mlflow":
            verb = rest.removeprefix(_MLFLOW)
            said = await run_in_threadpool(self.tracking.answer, workspace, verb, body)
            return said or await run_in_threadpool(self.registry.answer, workspace, verb, body)
        if service == "data":
            return _resolved(body) if rest == "dataversion/batchGetResolvedUris" else None
        return await run_in_threadpool(self._history, request.method, workspace, rest, body)

    def _refusal(
        self, request: Request, service: str, workspace: str, rest: str
    ) -> Response | None:
        try:
            audiences = (*AUDIENCES, run_audience(workspace))
            identity = self.tokens.read(request.headers.get("authorization"), *audiences)
        except NotSignedIn as reason:
            return not_signed_in(str(reason))
        reads = (
            request.method == "GET"
            if service != "mlflow"
            else rest.rpartition("/")[2] not in _WRITES
        )
        action = "read" if reads or service == "data" else "write"
        touch = self.access.allows(identity.name, action, f"workspace:{Address(workspace).name}")
        return None if touch.allowed else forbidden(identity, touch, f"{service}/{rest}", workspace)

    def _history(self, method: str, workspace: str, rest: str, body: Json) -> Response | None:
        if method == "POST" and rest == "rundata":
            job = self.executor.get(f"{workspace}/jobs/{body['runId']}")
            return JSONResponse({"runMetadata": _run(job)}) if job else not_found(body["runId"])
        if artifacts := _ARTIFACTS.fullmatch(rest):
            return self._artifacts(method, workspace, artifacts[1], artifacts[2] or "", body)
        if not (
            match := re.fullmatch(r"(?:experiments/[^/]+/)?runs/([^/]+)(/details|/children)?", rest)
        ):
            return None
        job = self.executor.get(f"{workspace}/jobs/{match[1]}")
        if job is None:
            return not_found(match[1])
        if method == "PATCH":
            return self._patched(job, body)
        if match[2] == "/children":
            return JSONResponse({"value": []})
        return (
            JSONResponse(self._details(job) if match[2] else _run(job)) if method == "GET" else None
        )

    def _details(self, job: Job) -> Json:
        secret = next(
            (key for key, known in self._logs.items() if known is job), None
        ) or secrets.token_urlsafe(16)
        self._logs[secret] = job
        about = {
            **_run(job),
            "target": str(job.properties["computeId"]).rpartition("/")[2],
            "warnings": [],
            "logFiles": {name: f"https://{HOST}/logs/{secret}/{name}" for name in job.logs()},
        }
        if job.status == "Failed":
            about["error"] = {"error": {"code": "UserError", "message": job.error, "details": []}}
        return about

    def _log(self, secret: str, name: str) -> Response:
        job = self._logs.get(secret)
        path: Path | None = job.logs().get(name) if job else None
        return FileResponse(path, media_type="text/plain") if path else not_found(name)

    def _patched(self, job: Job, body: Json) -> Response:
        with self.resources.lock:
            for name in ("displayName", "description"):
                if body.get(name) is not None:
                    job.properties[name] = body[name]
            for name in ("tags", "properties"):
                job.properties[name] = {
                    **(job.properties.get(name) or {}),
                    **(body.get(name) or {}),
                }
        return JSONResponse(_run(job))

    def _artifacts(
        self, method: str, workspace: str, run: str, part: str, body: Json
    ) -> Response | None:
        """Return addresses under which MLflow's client writes and reads a run's files."""
        store = self.resources.get(f"{workspace}/datastores/workspaceartifactstore") or {}
        account, folder = store["properties"]["accountName"], f"ExperimentRun/dcid.{run}"
        if method == "POST" and part == "/batch/metadata":
            paths = [one["path"] for one in body["paths"]]
            content = {path: self._content(account, folder, path) for path in paths}
            made = {path: _artifact(folder, path) for path in paths}
            return JSONResponse(
                {"artifacts": made, "artifactContentInformation": content, "errors": {}}
            )
        if method == "GET" and part == "/contentinfo":
            return JSONResponse(self._content(account, folder, body["path"]))
        if method == "GET" and not part:
            names = self.accounts.container(account, ARTIFACTS).list_blob_names(
                name_starts_with=f"{folder}/"
            )
            return JSONResponse(
                {"value": [_artifact(folder, name.removeprefix(f"{folder}/")) for name in names]}
            )
        return None

    def _content(self, account: str, folder: str, path: str) -> Json:
        address, _, signature = self.accounts.signed(account, ARTIFACTS).partition("?")
        return {**_artifact(folder, path), "contentUri": f"{address}/{folder}/{path}?{signature}"}


def output_asset(uri: str) -> str:
    """Return the id of the data asset that a job's output is; the address can be read back from it."""
    return f"azureml://locations/{REGION}/data/output/versions/{base64.urlsafe_b64encode(uri.encode()).decode()}"


def _resolved(body: Json) -> Response:
    places = {
        id: base64.urlsafe_b64decode(id.rpartition("/")[2]).decode()
        for id in body.get("values", [])
    }
    return JSONResponse(
        {"values": {id: {"uri": uri, "type": "UriFolder"} for id, uri in places.items()}}
    )


def _run(job: Job) -> Json:
    outputs = job.properties.get("outputs") or {}
    return {
        "runId": job.name,
        "rootRunId": job.name,
        "runUuid": str(uuid.uuid5(uuid.NAMESPACE_URL, str(job.resource["id"]))),
        "status": job.status,
        "displayName": job.properties["displayName"],
        "tags": job.properties.get("tags") or {},
        "properties": job.properties.get("properties") or {},
        "experimentId": "experiment",
        "dataContainerId": f"dcid.{job.name}",
        "runType": "azureml.scriptrun",
        "createdUtc": job.resource["systemData"]["createdAt"],
        "startTimeUtc": stamp(job.started) if job.started else None,
        "endTimeUtc": stamp(job.ended) if job.ended else None,
        "outputs": {
            name: {"assetId": output_asset(one["uri"]), "type": one["jobOutputType"]}
            for name, one in outputs.items()
            if one.get("uri")
        },
    }


def _artifact(folder: str, path: str) -> Json:
    container = folder.rpartition("/")[2]
    return {
        "artifactId": f"{folder}/{path}",
        "origin": "ExperimentRun",
        "container": container,
        "path": path,
    }


def _query(request: Request) -> dict[str, Any]:
    return dict(request.query_params)
