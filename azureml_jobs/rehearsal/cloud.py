"""The loopback cloud as a whole: starts and stops its parts, and gives its environment variables.

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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from azureml_jobs.identity import azure_sign_in
from azureml_jobs.rehearsal import arm, data_plane, sign_in, vaults
from azureml_jobs.rehearsal.access import Access
from azureml_jobs.rehearsal.answers import failure
from azureml_jobs.rehearsal.arm import Arm
from azureml_jobs.rehearsal.azurite import Azurite
from azureml_jobs.rehearsal.blobs import SUFFIX, Accounts, BlobGate
from azureml_jobs.rehearsal.certificates import HOSTS, Certificates, make_certificates
from azureml_jobs.rehearsal.data_plane import DataPlane
from azureml_jobs.rehearsal.demands import Demands
from azureml_jobs.rehearsal.executor import Executor, Services
from azureml_jobs.rehearsal.firewalls import Firewalls
from azureml_jobs.rehearsal.foreign_jobs import add_foreign_jobs
from azureml_jobs.rehearsal.machines import Machines
from azureml_jobs.rehearsal.mlflow_tracking import MlflowTracking
from azureml_jobs.rehearsal.mounts import ARTIFACTS, Mounts
from azureml_jobs.rehearsal.networks import Networks
from azureml_jobs.rehearsal.node_identity import NodeIdentities
from azureml_jobs.rehearsal.proxy import Proxy
from azureml_jobs.rehearsal.registered_models import ModelRegistry
from azureml_jobs.rehearsal.relayed import Relayed
from azureml_jobs.rehearsal.request_log import RequestLog
from azureml_jobs.rehearsal.resolved_images import ResolvedImages
from azureml_jobs.rehearsal.resources import Json, Resources, workspace_id
from azureml_jobs.rehearsal.sign_in import SignIn
from azureml_jobs.rehearsal.tenants import Tenants
from azureml_jobs.rehearsal.tokens import TENANT, Tokens
from azureml_jobs.rehearsal.vaults import Vaults
from conf.errors import AzureError
from conf.telemetry import OFF

METHODS: Final = ["GET", "PUT", "POST", "PATCH", "DELETE", "HEAD"]
BLOBS: Final = "azureml-blobstore"
"""The container of `workspaceblobstore`."""


class LoopbackCloud:
    """A cloud on 127.0.0.1 with these storage accounts and vaults; it loses its state at the end.

    `seconds` holds how long each part took to start.
    """

    def __init__(
        self,
        folder: Path,
        accounts: Sequence[str],
        vault_names: Sequence[str] = (),
        demands: Demands | None = None,
    ) -> None:
        self.folder = folder
        self.demands = demands or Demands()
        self.request_log = RequestLog()
        self.tokens = Tokens()
        self.tenants = Tenants()
        self.access = Access(self.request_log, lambda: self.demands.durations.roles)
        self.firewalls = Firewalls()
        self.resources = Resources()
        self.accounts = Accounts(accounts)
        self.vaults = Vaults(
            set(vault_names), self.tokens, self.access, self.tenants, self.firewalls
        )
        self.machines = Machines()
        self.networks = Networks()
        self.seconds: dict[str, float] = {}
        self._azurite = Azurite(folder / "blobs", self.accounts.keys)
        self._servers: list[tuple[uvicorn.Server, threading.Thread]] = []
        self._proxy: Proxy | None = None
        self.tracking: MlflowTracking

    def __enter__(self) -> LoopbackCloud:
        # What this process knows of another cloud is not so here: the same names, other tenants.
        azure_sign_in.forget()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._certificates = make_certificates(self.folder / "tls")
        with ExitStack() as on_error, ThreadPoolExecutor(1) as background:
            # A part that fails to start stops those before it; nothing is left running.
            on_error.callback(self._stop)
            # MLflow and Azurite take seconds each, so they start at the same time.
            tracking = background.submit(MlflowTracking, self.folder, data_plane.HOST)
            with self._timed("azurite"):
                self._azurite.start()
            self.accounts.port = self._azurite.port
            with self._timed("mlflow"):
                self.tracking = tracking.result()
            with self._timed("services"):
                self._start_services()
            on_error.pop_all()
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
        self.networks.stop()
        for server, thread in self._servers:
            server.should_exit = True
            thread.join()
        self._azurite.stop()

    # ---- what a client needs

    def environment(self) -> dict[str, str]:
        """Return the variables that send the Azure clients here, and nowhere else.

        Upper case only: gRPC reads only the lower-case ones, so that the federation's own traffic
        does not use the proxy.
        """
        assert self._proxy is not None, "the cloud is not started"
        proxy = f"http://127.0.0.1:{self._proxy.port}"
        ca = str(self._certificates.ca)
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

    def relay(self, folder: Path) -> Relayed:
        """Return a relay beside this cloud, which is started when its federation has a CA."""
        return Relayed(folder, self._certificates, self.networks)

    def signed_in_as(self, name: str) -> dict[str, str]:
        """Return the variables with which azure-identity signs in as that service principal."""
        identity, secret = self.tokens.register(name)
        return {
            "AZURE_TENANT_ID": identity.tenant,
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
        tenant: str = TENANT,
    ) -> str:
        """Make a workspace with its two own datastores in an account, and return its id.

        Its subscription and the account are that tenant's from now on.
        """
        self.tenants.put(f"subscription:{subscription}", tenant)
        self.tenants.put(f"storage:{account}", tenant)
        id = workspace_id(subscription, group, name)
        properties = {
            "workspaceId": f"ws-{name}",
            "discoveryUrl": f"https://{data_plane.HOST}/discovery",
            "mlFlowTrackingUri": f"azureml://{data_plane.HOST}/mlflow/v1.0{id}",
            "tenantId": tenant,
        }
        body = {"location": data_plane.REGION, "kind": "Default", "properties": properties}
        self.resources.put(id, body)
        self.datastore(id, "workspaceblobstore", account, BLOBS, by_identity=False, default=True)
        self.datastore(id, "workspaceartifactstore", account, ARTIFACTS, by_identity=False)
        add_foreign_jobs(self.resources, id, self.demands.foreign_jobs)
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
        """Make a datastore on a container, and return its id.

        With `by_identity` it holds no key: who reads it needs a role on the storage account.
        """
        self.accounts.container(account, container)
        properties = {
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
        self.resources.put(id, {"properties": properties})
        return id

    def compute(
        self,
        workspace: str,
        name: str,
        size: str = "Standard_DS3_v2",
        instance_types: Sequence[str] = (),
        *,
        low_priority: bool = False,
    ) -> str:
        """Make a cluster, or with instance types an attached Kubernetes.

        Returns the name of its managed identity.
        """
        identity = f"{workspace.rpartition('/')[2]}/{name}"
        principal, _ = self.tokens.register(identity, self.tenants.of_path(workspace))
        details: dict[str, Any]
        if instance_types:
            kind = "Kubernetes"
            types: Json = {type_name: {"resources": {}} for type_name in instance_types}
            details = {"instanceTypes": types, "namespace": "default"}
        else:
            kind = "AmlCompute"
            scale = {"minNodeCount": 0, "maxNodeCount": 4}
            priority = "LowPriority" if low_priority else "Dedicated"
            details = {"vmSize": size, "vmPriority": priority, "scaleSettings": scale}
        body = {
            "location": data_plane.REGION,
            "identity": {
                "type": "SystemAssigned",
                "principalId": principal.object_id,
                "tenantId": principal.tenant,
                "name": identity,
            },
            "properties": {
                "computeType": kind,
                "computeLocation": data_plane.REGION,
                "properties": details,
            },
        }
        self.resources.put(f"{workspace}/computes/{name}", body)
        return identity

    def resolve_images(self, variables: Mapping[str, str]) -> None:
        """From now on let the packages of a job's image decide whether it runs.

        `variables` are the environment in which a package index is asked.
        """
        services = self.executor.services
        services.images = ResolvedImages(self.resources, services.mounts, variables)

    # ---- starting

    def _start_services(self) -> None:
        mounts = Mounts(self.resources, self.accounts, self.access, self.firewalls)
        nodes = NodeIdentities(self.tokens, self.demands)
        services = Services(
            self.demands,
            self.machines,
            self.resources,
            mounts,
            self.tracking,
            self.tokens,
            nodes,
            self.networks,
            data_plane.HOST,
        )
        self.executor = Executor(self.folder / "jobs", services)
        self._arm = Arm(
            self.demands,
            self.resources,
            self.accounts,
            self.tokens,
            self.access,
            self.tenants,
            self.executor,
            data_plane.HOST,
            self.machines,
        )
        self._data = DataPlane(
            self.resources,
            self.accounts,
            self.tokens,
            self.access,
            self.tenants,
            self.executor,
            self.tracking,
            ModelRegistry(self.resources, self.accounts),
        )
        self._sign_in = SignIn(self.tokens)
        self._blobs = BlobGate(
            self.accounts, self.tokens, self.access, self.tenants, self.firewalls
        )
        all_hosts = Route("/{path:path}", self._answer, methods=METHODS)
        azure_port = self._listen(
            Starlette(routes=[all_hosts], lifespan=self._blobs.open), self._certificates
        )
        # A job asks for its identity's token on a port of its own, without TLS, as on Azure.
        managed = Route("/identity", nodes.managed, methods=["GET"])
        on_behalf = Route("/obo/{secret}", nodes.on_behalf, methods=["GET"])
        identity_port = self._listen(Starlette(routes=[managed, on_behalf]))
        nodes.address = f"http://127.0.0.1:{identity_port}"
        self._proxy = Proxy(HOSTS, azure_port, self.request_log)
        self._proxy.start()
        self.networks.start(self._proxy.port, identity_port)
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
                message = "The stand-in could not listen on 127.0.0.1."
                raise AzureError("MDW-873", message, "Look at the lines above.")
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
        line = f"{request.method} {host}{request.url.path}"
        if answer is None:
            self.request_log.unrouted.append(line)
            answer = failure(501, "NotInTheStandIn", f"No answer for {line}")
        self.request_log.requests.append(f"{line} {answer.status_code}")
        return answer

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[part] = time.monotonic() - started
