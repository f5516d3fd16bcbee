"""management.azure.com: the part of Azure Resource Manager that Azure ML's client uses for jobs and what they need.

What it answers is what the client accepts, observed with azure-ai-ml 1.35; it is not taken from Azure itself.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from azureml_jobs.rehearsal.access import Access
from azureml_jobs.rehearsal.answers import failure, forbidden, not_found, not_signed_in
from azureml_jobs.rehearsal.blobs import Accounts
from azureml_jobs.rehearsal.executor import Executor, bindings
from azureml_jobs.rehearsal.mounts import MountFailed
from azureml_jobs.rehearsal.resources import ML, Address, Json, Resources
from azureml_jobs.rehearsal.tokens import Identity, NotSignedIn, Tokens

HOST: Final = "management.azure.com"
AUDIENCES: Final = (
    "https://management.azure.com",
    "https://management.core.windows.net",
    "https://ml.azure.com",
)
KINDS: Final = {
    "workspaces", "workspaces/computes", "workspaces/datastores", "workspaces/jobs", "workspaces/data",
    "workspaces/data/versions", "workspaces/environments", "workspaces/environments/versions",
    "workspaces/codes/versions", "workspaces/models", "workspaces/models/versions",
}  # fmt: skip
MADE_BY_CLIENTS: Final = {
    "workspaces/environments/versions", "workspaces/codes/versions", "workspaces/data/versions",
    "workspaces/models/versions",
}  # fmt: skip
COLLECTIONS: Final = {
    "computes",
    "datastores",
    "jobs",
    "versions",
    "data",
    "environments",
    "models",
}
CLOUD: Final[Json] = {
    "name": "AzureCloud",
    "portal": "https://portal.azure.com",
    "resourceManager": f"https://{HOST}/",
    "authentication": {
        "loginEndpoint": "https://login.microsoftonline.com/",
        "audiences": ["https://management.core.windows.net/", f"https://{HOST}/"],
        "tenant": "common",
        "identityProvider": "AAD",
    },
    "graph": "https://graph.windows.net/",
    "graphAudience": "https://graph.windows.net/",
    "suffixes": {"storage": "core.windows.net", "keyVaultDns": "vault.azure.net"},
}
"""What the public cloud says about itself, as far as its clients read it."""
_LOCATION: Final = re.compile(
    r"/subscriptions/([^/]+)/providers/[^/]+/locations/([^/]+)/(usages|vmSizes)", re.IGNORECASE
)


@dataclass
class Arm:
    """Answers for resources; `usages` and `sizes` are what a subscription may use and which machines there are."""

    resources: Resources
    accounts: Accounts
    tokens: Tokens
    access: Access
    executor: Executor
    host: str  # of the workspaces' services, for addresses in answers
    usages: list[Json]
    sizes: list[Json]

    async def answer(self, request: Request) -> Response | None:
        """Return the answer, or None for a request that the stand-in does not know."""
        if request.url.path == "/metadata/endpoints":
            return JSONResponse([CLOUD])  # asked before anybody signs in
        try:
            identity = self.tokens.read(request.headers.get("authorization"), *AUDIENCES)
        except NotSignedIn as reason:
            return not_signed_in(str(reason))
        if match := _LOCATION.fullmatch(request.url.path):
            return JSONResponse(
                {"value": self.usages if match[3].lower() == "usages" else self.sizes}
            )
        address = Address(request.url.path.rstrip("/"))
        if not address.kind.startswith("workspaces"):
            return None
        workspace = self.resources.get(address.workspace.id)
        if workspace is None:
            return not_found(address.workspace.id)
        if (refusal := self._refusal(identity, request.method, address)) is not None:
            return refusal
        body = json.loads(await request.body() or b"{}")
        if request.method == "GET":
            return self._get(address, dict(request.query_params))
        if request.method == "PUT" and not address.trailing:
            return self._put(address, body, identity)
        return self._act(address) if request.method == "POST" else None

    def _refusal(self, identity: Identity, method: str, address: Address) -> Response | None:
        action = "read" if method == "GET" else "write"
        touch = self.access.allows(identity.name, action, f"workspace:{address.workspace.name}")
        if touch.allowed:
            return None
        return forbidden(identity, touch, f"{ML}/{address.kind}/{action}", address.id)

    def _get(self, address: Address, query: dict[str, str]) -> Response | None:
        if address.kind.endswith("/operationresults"):
            return JSONResponse({})
        if address.trailing:
            return self._list(address, query) if address.trailing in COLLECTIONS else None
        if address.kind not in KINDS:
            return None
        found = self.resources.get(address.id)
        return JSONResponse(found) if found else not_found(address.id)

    def _list(self, address: Address, query: dict[str, str]) -> Response:
        if "hash" in query:  # code is looked for by its content, whatever it is called
            codes = self.resources.below(f"{address.workspace.id}/codes", deep=True)
            found = [
                c
                for c in codes
                if (c["properties"].get("properties") or {}).get("hash_sha256") == query["hash"]
            ]
        else:
            found = self.resources.below(address.id)
        if query.get("isDefault") == "true":
            found = [one for one in found if one["properties"].get("isDefault")]
        return JSONResponse({"value": found})

    def _put(self, address: Address, body: Json, identity: Identity) -> Response | None:
        if address.kind == "workspaces/jobs":
            return self._submit(address, body, identity)
        if address.kind not in MADE_BY_CLIENTS:
            return None
        old = self.resources.get(address.id)
        made = self.resources.put(address.id, body)
        if address.kind == "workspaces/models/versions":
            made["properties"].setdefault("flavors", {})
        return JSONResponse(made, 200 if old else 201)

    def _act(self, address: Address) -> Response | None:
        owner = address.owner
        if (owner.kind, address.trailing) == ("workspaces/codes/versions", "startpendingupload"):
            return self._pending_upload(owner)
        found = self.resources.get(owner.id)
        if (owner.kind, address.trailing) == ("workspaces/datastores", "listsecrets"):
            return JSONResponse(self._secret(found)) if found else not_found(owner.id)
        if (owner.kind, address.trailing) == ("workspaces/jobs", "cancel"):
            return self._cancel(owner)
        return None

    def _pending_upload(self, code: Address) -> Response:
        store = self.resources.get(f"{code.workspace.id}/datastores/workspaceblobstore") or {}
        account, container = store["properties"]["accountName"], f"code-{uuid.uuid4().hex}"
        self.accounts.container(account, container)
        signed = self.accounts.signed(account, container)
        place = {
            "blobUri": signed.partition("?")[0],
            "storageAccountArmId": f"{code.workspace.id}/storageAccounts/{account}",
            "credential": {"credentialType": "SAS", "sasUri": signed},
        }
        about = {"pendingUploadId": uuid.uuid4().hex, "pendingUploadType": "TemporaryBlobReference"}
        return JSONResponse({**about, "blobReferenceForConsumption": place})

    def _secret(self, datastore: Json) -> dict[str, Any]:
        return {
            "secretsType": "AccountKey",
            "key": self.accounts.keys[datastore["properties"]["accountName"]],
        }

    def _cancel(self, address: Address) -> Response:
        job = self.executor.get(address.id)
        if job is None:
            return not_found(address.id)
        job.cancel()
        where = f"https://{HOST}{address.workspace.id}/operationResults/{uuid.uuid4()}?api-version=2023-04-01"
        return Response(status_code=202, headers={"Location": where, "Retry-After": "0"})

    def _submit(self, address: Address, body: Json, identity: Identity) -> Response:
        with self.resources.lock:
            if (old := self.resources.get(address.id)) is not None:
                return JSONResponse(old)
            if (wrong := self._wrong(address.workspace, body["properties"])) is not None:
                return failure(400, "UserError", wrong)
            job = self.resources.put(address.id, body)
            properties = job["properties"]
            properties |= {
                "status": "NotStarted",
                "displayName": properties.get("displayName") or job["name"],
            }
            properties["experimentName"] = properties.get("experimentName") or "Default"
            workspace = address.workspace.id
            properties["services"] = {
                "Tracking": _service("Tracking", f"azureml://{self.host}/mlflow/v1.0{workspace}"),
                "Studio": _service(
                    "Studio", f"https://ml.azure.com/runs/{job['name']}?wsid={workspace}"
                ),
            }
        self.executor.submit(job, identity)
        return JSONResponse(job, 201)

    def _wrong(self, workspace: Address, properties: Json) -> str | None:
        """Return what the service would refuse at once, and the client does not look at."""
        if properties.get("jobType") != "Command":
            return f"The stand-in runs command jobs, not {properties.get('jobType')}."
        compute = self.resources.get(str(properties.get("computeId")))
        if compute is None:
            return (
                f"Unknown compute target '{str(properties.get('computeId')).rpartition('/')[2]}'."
            )
        wanted = (properties.get("resources") or {}).get("instanceType")
        known = (compute["properties"].get("properties") or {}).get("instanceTypes") or {}
        if wanted and wanted not in known:
            return f"The compute {compute['name']} has no instance type '{wanted}'."
        if self.resources.get(str(properties.get("environmentId"))) is None:
            return f"Unknown environment {properties.get('environmentId')}."
        ends = {f"inputs.{name}" for name in properties.get("inputs") or {}}
        ends |= {f"outputs.{name}" for name in properties.get("outputs") or {}}
        if missing := sorted(bindings(str(properties["command"])) - ends):
            return f"The command binds {missing[0]}, which the job does not have."
        return self._missing_place(workspace, properties)

    def _missing_place(self, workspace: Address, properties: Json) -> str | None:
        places = [
            *(properties.get("inputs") or {}).values(),
            *(properties.get("outputs") or {}).values(),
        ]
        for uri in (place.get("uri") for place in places):
            if not uri:
                continue
            try:
                self.executor.services.mounts.place(workspace.id, uri)
            except MountFailed as reason:
                return f"Not found: {reason}."
        return None


def _service(kind: str, endpoint: str) -> dict[str, str]:
    return {"jobServiceType": kind, "endpoint": endpoint}
