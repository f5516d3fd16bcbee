"""The loopback cloud as a whole: starts every part, says which environment variables lead to it, and stops it.

with LoopbackCloud(folder, accounts=["hub", "north"]) as cloud:
    hub = cloud.workspace("hub", account="hub")
    cloud.compute(hub, "cpu")
    cloud.access.grant("engineer", "AzureML Data Scientist", "workspace:hub")
    os.environ |= cloud.environment() | cloud.signed_in_as("engineer")
    ...                                             # MLClient(DefaultAzureCredential(), ...)
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from azureml_jobs.rehearsal import arm, data_plane, sign_in, vaults
from azureml_jobs.rehearsal.access import Access
from azureml_jobs.rehearsal.arm import Arm
from azureml_jobs.rehearsal.azurite import Azurite
from azureml_jobs.rehearsal.blobs import SUFFIX, Accounts, BlobGate
from azureml_jobs.rehearsal.certificates import HOSTS, Certificates, make_certificates
from azureml_jobs.rehearsal.data_plane import DataPlane
from azureml_jobs.rehearsal.executor import Executor, Services
from azureml_jobs.rehearsal.mlflow_tracking import MlflowTracking
from azureml_jobs.rehearsal.model_registry import ModelRegistry
from azureml_jobs.rehearsal.mounts import ARTIFACTS, Mounts
from azureml_jobs.rehearsal.proxy import Proxy
from azureml_jobs.rehearsal.request_log import RequestLog
from azureml_jobs.rehearsal.resources import Json, Resources, workspace_id
from azureml_jobs.rehearsal.sign_in import SignIn
from azureml_jobs.rehearsal.tokens import TENANT, Tokens
from azureml_jobs.rehearsal.vaults import Vaults
from conf.errors import AzureError
from conf.telemetry import OFF

METHODS: Final = ["GET", "PUT", "POST", "PATCH", "DELETE", "HEAD"]
BLOBS: Final = "azureml-blobstore"
"""The container of `workspaceblobstore`."""
SIZES: Final[list[Json]] = [
    {
        "name": "Standard_DS3_v2",
        "family": "standardDSv2Family",
        "vCPUs": 4,
        "gpus": 0,
        "memoryGB": 14,
    },
    {
        "name": "Standard_NC6s_v3",
        "family": "standardNCSv3Family",
        "vCPUs": 6,
        "gpus": 1,
        "memoryGB": 112,
    },
    {
        "name": "Standard_NC24s_v3",
        "family": "standardNCSv3Family",
        "vCPUs": 24,
        "gpus": 4,
        "memoryGB": 448,
    },
]


class LoopbackCloud:
    """A cloud on 127.0.0.1 with the given storage accounts and vaults; its state is gone when it stops."""

    def __init__(
        self, folder: Path, accounts: Sequence[str], vault_names: Sequence[str] = ()
    ) -> None:
        self.folder, self.request_log = folder, RequestLog()
        self.tokens, self.access, self.resources = Tokens(), Access(self.request_log), Resources()
        self.accounts = Accounts(accounts)
        self.vaults = Vaults(set(vault_names), self.tokens, self.access)
        self.usages: list[Json] = []
        self.seconds: dict[str, float] = {}  # that each part took to start
        self._azurite = Azurite(folder / "blobs", self.accounts.keys)
        self._servers: list[tuple[uvicorn.Server, threading.Thread]] = []
        self._proxy: Proxy | None = None
        self.tracking: MlflowTracking

    def __enter__(self) -> LoopbackCloud:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._certificates = make_certificates(self.folder / "tls")
        with ExitStack() as begun, ThreadPoolExecutor(1) as beside:
            begun.callback(self._stop)
            tracking = beside.submit(MlflowTracking, self.folder, data_plane.HOST)
            self._timed("azurite", self._azurite.start)
            self.accounts.port = self._azurite.port
            self._timed("mlflow", lambda: setattr(self, "tracking", tracking.result()))
            self._timed("services", self._start_services)
            begun.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        """Stop what was started, the last first."""
        if self._proxy is not None:
            self.executor.stop()
            self._proxy.stop()
        for server, thread in self._servers:
            server.should_exit = True
            thread.join()
        self._azurite.stop()

    # ---- what a client needs

    def environment(self) -> dict[str, str]:
        """Return the variables that lead the Azure clients here, and nowhere else.

        Upper case only: gRPC obeys the lower-case ones alone, so that the federation's own traffic goes direct.
        """
        assert self._proxy is not None, "the cloud is not started"
        proxy, ca = f"http://127.0.0.1:{self._proxy.port}", str(self._certificates.ca)
        return {
            "HTTPS_PROXY": proxy,
            "HTTP_PROXY": proxy,
            "NO_PROXY": "127.0.0.1,localhost",
            "REQUESTS_CA_BUNDLE": ca,
            "SSL_CERT_FILE": ca,
            "CURL_CA_BUNDLE": ca,
            "AZUREML_RUN_POLLING_INTERVAL_MIN": "1",
            **OFF,
        }

    def signed_in_as(self, name: str) -> dict[str, str]:
        """Return the variables with which azure-identity signs in as that service principal."""
        identity, secret = self.tokens.known(name)
        return {
            "AZURE_TENANT_ID": TENANT,
            "AZURE_CLIENT_ID": identity.client_id,
            "AZURE_CLIENT_SECRET": secret,
        }

    # ---- what is there

    def workspace(
        self,
        name: str,
        account: str,
        subscription: str = "00000000-0000-0000-0000-000000000001",
        group: str = "meadow",
    ) -> str:
        """Make a workspace with its two own datastores in an account, and return its id."""
        id = workspace_id(subscription, group, name)
        about = {
            "workspaceId": f"ws-{name}",
            "discoveryUrl": f"https://{data_plane.HOST}/discovery",
            "mlFlowTrackingUri": f"azureml://{data_plane.HOST}/mlflow/v1.0{id}",
            "tenantId": TENANT,
        }
        self.resources.put(
            id, {"location": data_plane.REGION, "kind": "Default", "properties": about}
        )
        for store, container in (
            ("workspaceblobstore", BLOBS),
            ("workspaceartifactstore", ARTIFACTS),
        ):
            self.datastore(
                id,
                store,
                account,
                container,
                by_identity=False,
                default=store == "workspaceblobstore",
            )
        return id

    def datastore(
        self,
        workspace: str,
        name: str,
        account: str,
        container: str,
        *,
        by_identity: bool = True,
        default: bool = False,
    ) -> str:
        """Make a datastore on a container, and return its id; `by_identity` means that it holds no key."""
        self.accounts.container(account, container)
        about = {
            "datastoreType": "AzureBlob",
            "accountName": account,
            "containerName": container,
            "endpoint": SUFFIX.removeprefix("blob."),
            "protocol": "https",
            "isDefault": default,
            "credentials": {"credentialsType": "None" if by_identity else "AccountKey"},
            "tags": {},
            "properties": {},
        }
        id = f"{workspace}/datastores/{name}"
        self.resources.put(id, {"properties": about})
        return id

    def compute(
        self,
        workspace: str,
        name: str,
        size: str = "Standard_DS3_v2",
        instance_types: Sequence[str] = (),
    ) -> str:
        """Make a cluster (or, with instance types, an attached Kubernetes) and return the name of its identity."""
        identity = f"{workspace.rpartition('/')[2]}/{name}"
        principal, _ = self.tokens.known(identity)
        inner: dict[str, Any] = {
            "vmSize": size,
            "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 4},
        }
        if instance_types:
            inner = {
                "instanceTypes": {one: {"resources": {}} for one in instance_types},
                "namespace": "default",
            }
        kind = "Kubernetes" if instance_types else "AmlCompute"
        body = {
            "location": data_plane.REGION,
            "identity": {
                "type": "SystemAssigned",
                "principalId": principal.object_id,
                "tenantId": TENANT,
            }
            | {"name": identity},
            "properties": {
                "computeType": kind,
                "computeLocation": data_plane.REGION,
                "properties": inner,
            },
        }
        self.resources.put(f"{workspace}/computes/{name}", body)
        return identity

    # ---- starting

    def _start_services(self) -> None:
        mounts = Mounts(self.resources, self.accounts, self.access)
        services = Services(self.resources, mounts, self.tracking, self.tokens, data_plane.HOST)
        self.executor = Executor(self.folder / "jobs", services)
        self._arm = Arm(
            self.resources,
            self.accounts,
            self.tokens,
            self.access,
            self.executor,
            data_plane.HOST,
            self.usages,
            SIZES,
        )
        self._data = DataPlane(
            self.resources, self.accounts, self.tokens, self.access, self.executor, self.tracking,
            ModelRegistry(self.resources, self.accounts),
        )  # fmt: skip
        self._sign_in, self._blobs = (
            SignIn(self.tokens),
            BlobGate(self.accounts, self.tokens, self.access),
        )
        names = Starlette(
            routes=[Route("/{path:path}", self._answer, methods=METHODS)], lifespan=self._blobs.open
        )
        azure = self._listen(names, self._certificates)
        inside = self._listen(
            Starlette(routes=[Route("/identity", self._sign_in.managed, methods=["GET"])])
        )
        self._proxy = Proxy(HOSTS, azure, self.request_log)
        self._proxy.start()
        services.identity_endpoint = f"http://127.0.0.1:{inside}/identity"
        services.client_environment = self.environment()

    def _listen(self, app: Starlette, tls: Certificates | None = None) -> int:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,
            loop="asyncio",
            ws="none",
            log_level="critical",
            access_log=False,
            timeout_graceful_shutdown=2,
            ssl_certfile=tls.certificate if tls else None,
            ssl_keyfile=tls.key if tls else None,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(
            target=server.run, args=([listening],), name="loopback", daemon=True
        )
        self._servers.append((server, thread))
        thread.start()
        while not server.started:
            if not thread.is_alive():
                raise AzureError(
                    "MDW-873",
                    "The stand-in could not listen on 127.0.0.1.",
                    "Look at the lines above.",
                )
            time.sleep(0.02)
        return int(listening.getsockname()[1])

    async def _answer(self, request: Request) -> Response:
        host = request.headers.get("host", "").partition(":")[0].lower()
        answer: Response | None = None
        if host == arm.HOST:
            answer = await self._arm.answer(request)
        elif host == sign_in.HOST:
            answer = await self._sign_in.answer(request)
        elif host == data_plane.HOST:
            answer = await self._data.answer(request)
        elif host.endswith(f".{vaults.SUFFIX}"):
            answer = await self.vaults.answer(request)
        elif host.endswith(f".{SUFFIX}"):
            answer = await self._blobs.answer(request)
        what = f"{request.method} {host}{request.url.path}"
        if answer is None:
            self.request_log.unrouted.append(what)
            answer = JSONResponse(
                {"error": {"code": "NotInTheStandIn", "message": f"No answer for {what}"}}, 501
            )
        self.request_log.requests.append(f"{what} {answer.status_code}")
        return answer

    def _timed(self, part: str, start: Any) -> None:
        begun = time.monotonic()
        start()
        self.seconds[part] = time.monotonic() - begun
