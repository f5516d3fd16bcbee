"""`<region>.api.azureml.ms`: run history, logs, outputs and artefacts of jobs, and MLflow."""

from __future__ import annotations

import base64
import re
import secrets
import uuid
from dataclasses import dataclass, field
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from azureml_jobs.rehearsal.access import Access
from azureml_jobs.rehearsal.answers import forbidden, not_found, not_signed_in
from azureml_jobs.rehearsal.arm import AUDIENCES
from azureml_jobs.rehearsal.blobs import Accounts
from azureml_jobs.rehearsal.executor import Executor, Job, run_audience
from azureml_jobs.rehearsal.mlflow_tracking import MlflowTracking
from azureml_jobs.rehearsal.mounts import ARTIFACTS
from azureml_jobs.rehearsal.registered_models import ModelRegistry
from azureml_jobs.rehearsal.resources import Address, Json, Resources, stamp
from azureml_jobs.rehearsal.tenants import Tenants, wrong_issuer
from azureml_jobs.rehearsal.tokens import NotSignedIn, Tokens

REGION: Final = "loopback"
HOST: Final = f"{REGION}.api.azureml.ms"
_SERVICE: Final = re.compile(
    r"/(history|data|mlflow)/v[\d.]+(/subscriptions/.+?/workspaces/[^/]+)/(.+)", re.IGNORECASE
)
_ARTIFACTS: Final = re.compile(
    r"experiments/[^/]+/runs/([^/]+)/artifacts(/batch/metadata|/contentinfo)?"
)
_RUN: Final = re.compile(r"(?:experiments/[^/]+/)?runs/([^/]+)(/details|/children)?")
_MLFLOW: Final = "api/2.0/mlflow/"
_WRITES: Final = ("create", "update", "log-batch", "log-metric", "log-parameter", "set-tag")


@dataclass
class DataPlane:
    """Answers for every workspace: all are in one region here.

    `_logs` holds jobs by the part of their logs' address that nobody can guess.
    """

    resources: Resources
    accounts: Accounts
    tokens: Tokens
    access: Access
    tenants: Tenants
    executor: Executor
    tracking: MlflowTracking
    registry: ModelRegistry
    _logs: dict[str, Job] = field(default_factory=dict)

    async def answer(self, request: Request) -> Response | None:
        """Return the answer, or None for a request that the stand-in does not know."""
        path = request.url.path
        if path == "/discovery":
            services = ("api", "history", "studio", "modelmanagement")
            return JSONResponse(dict.fromkeys(services, f"https://{HOST}"))
        if path.startswith("/logs/"):
            secret, _, name = path.removeprefix("/logs/").partition("/")
            return self._log(secret, name)
        match = _SERVICE.fullmatch(path)
        if match is None:
            return None
        service = match[1].lower()
        workspace = match[2]
        rest = match[3]
        refusal = self._refusal(request, service, workspace, rest)
        if refusal is not None:
            return refusal
        body: Json
        if request.method == "GET":
            body = dict(request.query_params)
        else:
            body = await request.json()
        if service == "mlflow":
            return await run_in_threadpool(self._mlflow, workspace, rest, body)
        if service == "data":
            return _resolved(body) if rest == "dataversion/batchGetResolvedUris" else None
        return await run_in_threadpool(self._history, request.method, workspace, rest, body)

    def _mlflow(self, workspace: str, rest: str, body: Json) -> Response | None:
        verb = rest.removeprefix(_MLFLOW)
        answer = self.tracking.answer(workspace, verb, body)
        if answer is None:
            answer = self.registry.answer(workspace, verb, body)
        return answer

    def _refusal(
        self, request: Request, service: str, workspace: str, rest: str
    ) -> Response | None:
        tenant = self.tenants.of_path(workspace)
        try:
            audiences = (*AUDIENCES, run_audience(workspace))
            identity = self.tokens.read(request.headers.get("authorization"), *audiences)
        except NotSignedIn as reason:
            return not_signed_in(str(reason), tenant)
        if identity.tenant != tenant:
            return wrong_issuer(identity, tenant)
        if service == "data":
            reads = True
        elif service == "mlflow":
            # MLflow sends most requests as POST, those that only read too.
            reads = rest.rpartition("/")[2] not in _WRITES
        else:
            reads = request.method == "GET"
        action = "read" if reads else "write"
        access = self.access.allows(identity.name, action, f"workspace:{Address(workspace).name}")
        if access.allowed:
            return None
        return forbidden(identity, access, f"{service}/{rest}", workspace)

    def _history(self, method: str, workspace: str, rest: str, body: Json) -> Response | None:
        if method == "POST" and rest == "rundata":
            job = self.executor.get(f"{workspace}/jobs/{body['runId']}")
            return JSONResponse({"runMetadata": _run(job)}) if job else not_found(body["runId"])
        artifacts = _ARTIFACTS.fullmatch(rest)
        if artifacts:
            return self._artifacts(method, workspace, artifacts[1], artifacts[2] or "", body)
        run = _RUN.fullmatch(rest)
        if run is None:
            return None
        job = self.executor.get(f"{workspace}/jobs/{run[1]}")
        if job is None:
            return not_found(run[1])
        if method == "PATCH":
            return self._patched(job, body)
        if run[2] == "/children":
            return JSONResponse({"value": []})
        if method != "GET":
            return None
        return JSONResponse(self._details(job) if run[2] else _run(job))

    def _details(self, job: Job) -> Json:
        secret = self._log_secret(job)
        details = {
            **_run(job),
            "target": str(job.properties["computeId"]).rpartition("/")[2],
            "warnings": [],
            "logFiles": {name: f"https://{HOST}/logs/{secret}/{name}" for name in job.logs()},
        }
        if job.status == "Failed":
            details["error"] = {
                "error": {"code": job.error_code, "message": job.error, "details": []}
            }
        return details

    def _log_secret(self, job: Job) -> str:
        """Return the secret part of a job's log addresses: they are read without signing in."""
        for secret, owner in self._logs.items():
            if owner is job:
                return secret
        secret = secrets.token_urlsafe(16)
        self._logs[secret] = job
        return secret

    def _log(self, secret: str, name: str) -> Response:
        job = self._logs.get(secret)
        path = job.logs().get(name) if job else None
        if path is None:
            return not_found(name)
        return FileResponse(path, media_type="text/plain")

    def _patched(self, job: Job, body: Json) -> Response:
        with self.resources.lock:
            for name in ("displayName", "description"):
                if body.get(name) is not None:
                    job.properties[name] = body[name]
            for name in ("tags", "properties"):
                old = job.properties.get(name) or {}
                job.properties[name] = {**old, **(body.get(name) or {})}
        return JSONResponse(_run(job))

    def _artifacts(
        self, method: str, workspace: str, run: str, part: str, body: Json
    ) -> Response | None:
        """Return addresses under which MLflow's client writes and reads a run's files."""
        store = self.resources.get(f"{workspace}/datastores/workspaceartifactstore") or {}
        account = store["properties"]["accountName"]
        folder = f"ExperimentRun/dcid.{run}"
        if method == "POST" and part == "/batch/metadata":
            paths = [item["path"] for item in body["paths"]]
            answer = {
                "artifacts": {path: _artifact(folder, path) for path in paths},
                "artifactContentInformation": {
                    path: self._content(account, folder, path) for path in paths
                },
                "errors": {},
            }
            return JSONResponse(answer)
        if method == "GET" and part == "/contentinfo":
            return JSONResponse(self._content(account, folder, body["path"]))
        if method == "GET" and not part:
            container = self.accounts.container(account, ARTIFACTS)
            artifacts = []
            for name in container.list_blob_names(name_starts_with=f"{folder}/"):
                artifacts.append(_artifact(folder, name.removeprefix(f"{folder}/")))
            return JSONResponse({"value": artifacts})
        return None

    def _content(self, account: str, folder: str, path: str) -> Json:
        address, _, signature = self.accounts.signed_url(account, ARTIFACTS).partition("?")
        return {**_artifact(folder, path), "contentUri": f"{address}/{folder}/{path}?{signature}"}


def output_asset(uri: str) -> str:
    """Return the id of a job's output as a data asset; `_resolved` reads the address back."""
    encoded = base64.urlsafe_b64encode(uri.encode()).decode()
    return f"azureml://locations/{REGION}/data/output/versions/{encoded}"


def _resolved(body: Json) -> Response:
    assets = {}
    for id in body.get("values", []):
        uri = base64.urlsafe_b64decode(id.rpartition("/")[2]).decode()
        assets[id] = {"uri": uri, "type": "UriFolder"}
    return JSONResponse({"values": assets})


def _run(job: Job) -> Json:
    outputs = {}
    for name, output in (job.properties.get("outputs") or {}).items():
        if output.get("uri"):
            asset = output_asset(output["uri"])
            outputs[name] = {"assetId": asset, "type": output["jobOutputType"]}
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
        "outputs": outputs,
    }


def _artifact(folder: str, path: str) -> Json:
    return {
        "artifactId": f"{folder}/{path}",
        "origin": "ExperimentRun",
        "container": folder.rpartition("/")[2],
        "path": path,
    }
