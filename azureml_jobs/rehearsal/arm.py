"""management.azure.com: the part of Azure Resource Manager that Azure ML's client uses for jobs.

The answers are what the client accepts, observed with azure-ai-ml 1.35; they are not taken from
Azure itself.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from azureml_jobs.rehearsal.access import Access
from azureml_jobs.rehearsal.answers import failure, forbidden, not_found, not_signed_in
from azureml_jobs.rehearsal.blobs import Accounts
from azureml_jobs.rehearsal.demands import Demands
from azureml_jobs.rehearsal.executor import Executor
from azureml_jobs.rehearsal.job_commands import bindings
from azureml_jobs.rehearsal.machines import Machines
from azureml_jobs.rehearsal.mounts import MountFailed
from azureml_jobs.rehearsal.request_budget import throttled
from azureml_jobs.rehearsal.resources import ML, Address, Json, Resources
from azureml_jobs.rehearsal.tenants import Tenants, wrong_issuer
from azureml_jobs.rehearsal.tokens import Identity, NotSignedIn, Tokens

HOST: Final = "management.azure.com"
AUDIENCES: Final = (
    "https://management.azure.com",
    "https://management.core.windows.net",
    "https://ml.azure.com",
)
KINDS: Final = {
    "workspaces",
    "workspaces/computes",
    "workspaces/datastores",
    "workspaces/jobs",
    "workspaces/data",
    "workspaces/data/versions",
    "workspaces/environments",
    "workspaces/environments/versions",
    "workspaces/codes/versions",
    "workspaces/models",
    "workspaces/models/versions",
}
MADE_BY_CLIENTS: Final = {
    "workspaces/environments/versions",
    "workspaces/codes/versions",
    "workspaces/data/versions",
    "workspaces/models/versions",
}
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
    """Answers for resources; `host` is that of the workspaces' services, for addresses in answers."""

    demands: Demands
    resources: Resources
    accounts: Accounts
    tokens: Tokens
    access: Access
    tenants: Tenants
    executor: Executor
    host: str
    machines: Machines

    async def answer(self, request: Request) -> Response | None:
        """Return the answer, or None for a request that the stand-in does not know."""
        if request.url.path == "/metadata/endpoints":
            # Clients read this before they sign in.
            return JSONResponse([CLOUD])
        caller = self._caller(request)
        if isinstance(caller, Response):
            return caller
        location = _LOCATION.fullmatch(request.url.path)
        if location:
            is_usages = location[3].lower() == "usages"
            machines = self.machines
            return JSONResponse({"value": machines.usages if is_usages else machines.sizes})
        address = Address(request.url.path.rstrip("/"))
        if not address.kind.startswith("workspaces"):
            return None
        if self.resources.get(address.workspace.id) is None:
            return not_found(address.workspace.id)
        refusal = self._refusal(caller, request.method, address)
        if refusal is not None:
            return refusal
        body = json.loads(await request.body() or b"{}")
        if request.method == "GET":
            return self._get(address, request)
        if request.method == "PUT" and not address.trailing:
            return self._put(address, body, caller)
        if request.method == "POST":
            return self._act(address)
        return None

    def _caller(self, request: Request) -> Identity | Response:
        """Return who asks, or why that is not known or not of this subscription's tenant."""
        tenant = self.tenants.of_path(request.url.path)
        try:
            identity = self.tokens.read(request.headers.get("authorization"), *AUDIENCES)
        except NotSignedIn as reason:
            return not_signed_in(str(reason), tenant)
        if identity.tenant != tenant:
            return wrong_issuer(identity, tenant)
        subscription = request.url.path.strip("/").partition("/")[2].partition("/")[0]
        reads = request.method == "GET"
        budget = self.demands.budget
        seconds = budget.spend(subscription, identity.name, reads=reads) if budget else 0.0
        return throttled(subscription, request.method, seconds) if seconds else identity

    def _refusal(self, identity: Identity, method: str, address: Address) -> Response | None:
        action = "read" if method == "GET" else "write"
        access = self.access.allows(identity.name, action, f"workspace:{address.workspace.name}")
        if access.allowed:
            return None
        return forbidden(identity, access, f"{ML}/{address.kind}/{action}", address.id)

    def _get(self, address: Address, request: Request) -> Response | None:
        if address.kind.endswith("/operationresults"):
            return JSONResponse({})
        if address.trailing in COLLECTIONS:
            return self._list(address, request)
        if address.trailing or address.kind not in KINDS:
            return None
        resource = self.resources.get(address.id)
        if resource is None:
            return not_found(address.id)
        return JSONResponse(resource)

    def _list(self, address: Address, request: Request) -> Response:
        query = request.query_params
        if "hash" in query:
            # The client searches code by its content, under any name.
            codes = self.resources.below(f"{address.workspace.id}/codes", deep=True)
            resources = [code for code in codes if _code_hash(code) == query["hash"]]
        else:
            resources = self.resources.below(address.id)
        if query.get("isDefault") == "true":
            resources = [item for item in resources if item["properties"].get("isDefault")]
        if "tag" in query:
            resources = [item for item in resources if query["tag"] in _tags_of(item)]
        # No order is documented. This one puts old and new ones on every page.
        resources.sort(key=lambda item: str(item["name"]))
        return self._page(resources, request)

    def _page(self, resources: list[Json], request: Request) -> Response:
        """Return the part of a list that was asked for, with the address of the next one."""
        first = int(request.query_params.get("$skip", "0"))
        last = first + self.demands.page
        answer: Json = {"value": resources[first:last]}
        if last < len(resources):
            query = {**request.query_params, "$skip": str(last)}
            answer["nextLink"] = f"https://{HOST}{request.url.path}?{urlencode(query)}"
        return JSONResponse(answer)

    def _put(self, address: Address, body: Json, identity: Identity) -> Response | None:
        if address.kind == "workspaces/jobs":
            return self._submit(address, body, identity)
        if address.kind not in MADE_BY_CLIENTS:
            return None
        is_new = self.resources.get(address.id) is None
        resource = self.resources.put(address.id, body)
        if address.kind == "workspaces/models/versions":
            resource["properties"].setdefault("flavors", {})
        return JSONResponse(resource, 201 if is_new else 200)

    def _act(self, address: Address) -> Response | None:
        owner = address.owner
        action = f"{owner.kind}/{address.trailing}"
        if action == "workspaces/codes/versions/startpendingupload":
            return self._pending_upload(owner)
        if action == "workspaces/datastores/listsecrets":
            datastore = self.resources.get(owner.id)
            return JSONResponse(self._secret(datastore)) if datastore else not_found(owner.id)
        if action == "workspaces/jobs/cancel":
            return self._cancel(owner)
        return None

    def _pending_upload(self, code: Address) -> Response:
        """Return a new container to which the client uploads a job's code."""
        store = self.resources.get(f"{code.workspace.id}/datastores/workspaceblobstore") or {}
        account = store["properties"]["accountName"]
        container = f"code-{uuid.uuid4().hex}"
        self.accounts.container(account, container)
        signed_url = self.accounts.signed_url(account, container)
        blob_reference = {
            "blobUri": signed_url.partition("?")[0],
            "storageAccountArmId": f"{code.workspace.id}/storageAccounts/{account}",
            "credential": {"credentialType": "SAS", "sasUri": signed_url},
        }
        return JSONResponse(
            {
                "pendingUploadId": uuid.uuid4().hex,
                "pendingUploadType": "TemporaryBlobReference",
                "blobReferenceForConsumption": blob_reference,
            }
        )

    def _secret(self, datastore: Json) -> dict[str, Any]:
        account = datastore["properties"]["accountName"]
        return {"secretsType": "AccountKey", "key": self.accounts.keys[account]}

    def _cancel(self, address: Address) -> Response:
        job = self.executor.get(address.id)
        if job is None:
            return not_found(address.id)
        job.cancel()
        operation = f"{address.workspace.id}/operationResults/{uuid.uuid4()}"
        location = f"https://{HOST}{operation}?api-version=2023-04-01"
        return Response(status_code=202, headers={"Location": location, "Retry-After": "0"})

    def _submit(self, address: Address, body: Json, identity: Identity) -> Response:
        # Under the lock, so that a client that sends its request twice starts one job.
        with self.resources.lock:
            existing = self.resources.get(address.id)
            if existing is not None:
                return JSONResponse(existing)
            mistake = self._mistake(address.workspace, body["properties"])
            if mistake is not None:
                return failure(400, "UserError", mistake)
            job = self.resources.put(address.id, body)
            properties = job["properties"]
            properties["status"] = "NotStarted"
            properties["displayName"] = properties.get("displayName") or job["name"]
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

    def _mistake(self, workspace: Address, properties: Json) -> str | None:
        """Return what the service would refuse at once, and the client does not check."""
        if properties.get("jobType") != "Command":
            return f"The stand-in runs command jobs, not {properties.get('jobType')}."
        compute_id = str(properties.get("computeId"))
        compute = self.resources.get(compute_id)
        if compute is None:
            return f"Unknown compute target '{compute_id.rpartition('/')[2]}'."
        instance_type = (properties.get("resources") or {}).get("instanceType")
        instance_types = (compute["properties"].get("properties") or {}).get("instanceTypes") or {}
        if instance_type and instance_type not in instance_types:
            return f"The compute {compute['name']} has no instance type '{instance_type}'."
        if self.resources.get(str(properties.get("environmentId"))) is None:
            return f"Unknown environment {properties.get('environmentId')}."
        inputs = properties.get("inputs") or {}
        outputs = properties.get("outputs") or {}
        bound = bindings(str(properties["command"]))
        missing = bound - {f"inputs.{name}" for name in inputs}
        missing -= {f"outputs.{name}" for name in outputs}
        if missing:
            return f"The command binds {min(missing)}, which the job does not have."
        uris = [item.get("uri") for item in (*inputs.values(), *outputs.values())]
        return self._missing_data(workspace, [uri for uri in uris if uri])

    def _missing_data(self, workspace: Address, uris: list[str]) -> str | None:
        for uri in uris:
            try:
                self.executor.services.mounts.location(workspace.id, uri)
            except MountFailed as reason:
                return f"Not found: {reason}."
        return None


def _code_hash(code: Json) -> Any:
    return (code["properties"].get("properties") or {}).get("hash_sha256")


def _tags_of(resource: Json) -> Json:
    return resource["properties"].get("tags") or {}


def _service(kind: str, endpoint: str) -> dict[str, str]:
    return {"jobServiceType": kind, "endpoint": endpoint}
