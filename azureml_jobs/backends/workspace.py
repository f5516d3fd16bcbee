"""One Azure ML workspace: the only module that calls the SDK, and that knows its errors.

What it refuses is told by `identity.azure_meanings`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

from azureml_jobs.identity.azure_meanings import refusal
from azureml_jobs.identity.azure_sign_in import sign_in
from azureml_jobs.jobs.specification import TAG_FEDERATION, TAG_ROLE, TAG_SILO, JobSpec
from conf.errors import AzureError
from conf.schema import WorkspaceConf

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Command
    from azure.core import PipelineClient
    from azure.core.credentials import TokenCredential
    from azure.core.rest import HttpRequest, HttpResponse

T = TypeVar("T")
ROLE: Final = "AzureML Data Scientist"
LIVE: Final = (
    "NotStarted",
    "Queued",
    "Starting",
    "Provisioning",
    "Preparing",
    "Running",
    "Finalizing",
)
OVER: Final = ("Completed", "Failed", "Canceled", "NotResponding")
OLDEST_SECONDS: Final = 60 * 86400.0
"""Of a job that may still run: Azure ML ends one after 21 days, and it may have waited before."""
BUILD_LOG: Final = "image_build_log"
NO_IMAGE: Final = (
    "image build failed",
    "failed to build the image",
    "imagebuildfail",
    "docker build",
)
"""Words of Azure ML about a job whose image could not be built."""
LOGS: Final = "user_logs/"
PART_BYTES: Final = 4 << 20
"""Of a log, read at once."""


@dataclass(frozen=True)
class AzureJob:
    """A job of a federation as its workspace shows it; `silo` is empty for the orchestrator's.

    `created` is in seconds since 1970, 0 where the workspace does not tell.
    """

    name: str
    role: str
    silo: str
    status: str
    studio: str
    created: float = 0.0

    @property
    def live(self) -> bool:
        """Return whether it runs, or will."""
        return self.status in LIVE

    @property
    def over(self) -> bool:
        """Return whether it has ended, one way or the other."""
        return self.status in OVER


@dataclass(frozen=True)
class JobTold:
    """What run history tells of a job.

    The addresses of its logs carry a signature each: they are never shown.
    """

    status: str
    error: str
    logs: dict[str, str]
    build_log: str = ""
    """The address of the log of its image's build, where there is one."""

    @property
    def image_failed(self) -> bool:
        """Return whether its image could not be built: then it never ran, and has no log itself."""
        told = self.error.lower()
        return self.status == "Failed" and any(word in told for word in NO_IMAGE)

    @property
    def over(self) -> bool:
        """Return whether the job has ended."""
        return self.status in OVER


@dataclass(frozen=True)
class Compute:
    """What a compute can do; `gpus` of one node, None where the workspace does not tell."""

    name: str
    kind: str
    size: str
    most_nodes: int | None
    instance_types: tuple[str, ...]
    identities: tuple[str, ...]  # as whom its jobs can act, in words
    location: str


class Workspace:
    """A workspace for whoever is signed in; every method raises AzureError."""

    def __init__(self, conf: WorkspaceConf, credential: TokenCredential | None = None) -> None:
        self.conf, self._credential = conf, credential

    @cached_property
    def _client(self) -> MLClient:
        os.environ.setdefault("AZUREML_RUN_POLLING_INTERVAL_MIN", "2")
        logging.getLogger("azure.ai.ml").setLevel(
            logging.ERROR
        )  # notes on experimental classes that it uses itself
        from azure.ai.ml import MLClient

        from azureml_jobs.backends.throttling import TellsThrottling

        names = self.conf.subscription_id, self.conf.resource_group, self.conf.name
        return MLClient(
            self._credential or sign_in(),
            *names,
            enable_telemetry=False,
            show_progress=False,
            per_retry_policies=[TellsThrottling(f"The workspace {self.conf.name}")],
        )

    def tracking_uri(self) -> str:
        """Return the address under which MLflow reaches this workspace."""
        found = self._asked("", lambda ml: ml.workspaces.get(self.conf.name))
        return str(found.mlflow_tracking_uri)

    def submit(self, spec: JobSpec) -> AzureJob:
        """Send a job; its code and its environment's context are uploaded first."""
        nowhere = io.StringIO()  # of an upload the SDK prints the colours of a bar, not the bar
        with (
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
            _outside_git(),
        ):
            sent = self._asked(
                spec.display_name, lambda ml: ml.jobs.create_or_update(as_command(spec))
            )
        return _seen(sent)

    def jobs_of(self, federation: str) -> list[AzureJob]:
        """Return the jobs of a federation in this workspace that may still run, the newest first.

        The service sends only jobs with Meadow's tag, page by page. In a command that waits a
        job is asked for by name instead.
        """
        found = self._asked(
            "the jobs", lambda ml: list(not_too_old(ml.jobs.list(tag=TAG_FEDERATION), time.time()))
        )
        mine = [job for job in found if (job.tags or {}).get(TAG_FEDERATION) == federation]
        mine.sort(key=lambda job: (job.creation_context.created_at, job.name), reverse=True)
        return [_seen(job) for job in mine]

    def job(self, name: str) -> AzureJob:
        """Return one job."""
        return _seen(self._asked(f"the job {name}", lambda ml: ml.jobs.get(name)))

    def cancel(self, name: str) -> None:
        """Ask for a job's end, and return when the service has taken note."""
        self._asked(f"the job {name}", lambda ml: ml.jobs.begin_cancel(name).result())

    def told(self, name: str) -> JobTold:
        """Return what run history tells of a job, while it runs and after its end.

        The SDK's public `stream` shows one process of one job, on stdout, and nothing of a job that
        has ended; this is the call that it makes itself. The SDK's version is bounded because of
        it.
        """
        found = self._asked(
            f"the job {name}", lambda ml: ml.jobs._runs_operations.get_run_details(name)
        )
        said = getattr(getattr(found.error, "error", None), "message", "") or ""
        files = sorted((found.log_files or {}).items())
        logs = {key: url for key, url in files if key.startswith(LOGS)}
        built = [url for key, url in files if BUILD_LOG in key]
        return JobTold(str(found.status), " ".join(said.split()), logs, built[-1] if built else "")

    def log(self, url: str, start: int) -> bytes:
        """Return what a log holds from a byte on."""
        found = bytearray()
        while True:
            begin = start + len(found)
            part = self._part(url, begin, begin + PART_BYTES - 1)
            found += part
            if len(part) < PART_BYTES:
                return bytes(found)

    def _part(self, url: str, first: int, last: int) -> bytes:
        from azure.core import rest
        from azure.core.exceptions import AzureError as ClientError

        request = rest.HttpRequest("GET", url, headers={"Range": f"bytes={first}-{last}"})
        try:
            answer = self._plain.send_request(request)
        except ClientError as error:  # whose text may hold the signature
            why = type(error).__name__
        else:
            if answer.status_code == 206:
                return bytes(answer.content)
            if answer.status_code == 416:  # nothing there yet
                return b""
            if answer.status_code == 200:  # ranges are not its thing
                return bytes(answer.content[first : last + 1])
            why = f"status {answer.status_code}"
        hint = "Look at the log in Azure ML's Studio."
        raise AzureError(
            "MDW-800", f"Can't read a log in the workspace {self.conf.name}: {why}.", hint
        ) from None

    @cached_property
    def _plain(self) -> PipelineClient[HttpRequest, HttpResponse]:
        """Return a client that signs nothing: a log's address carries what opens it."""
        from azure.core import PipelineClient
        from azure.core.pipeline.policies import RetryPolicy

        return PipelineClient("", policies=[RetryPolicy(retry_total=3)])

    def container(self, datastore: str) -> str:
        """Return the address of the container that a datastore stands for."""
        found: Any = self._asked(
            f"the datastore {datastore}", lambda ml: ml.datastores.get(datastore)
        )
        if not _kind(found).endswith("azureblob"):
            hint = "Name one on a blob container."
            raise AzureError(
                "MDW-802",
                f"The datastore {datastore} of {self.conf.name} is no blob container.",
                hint,
            )
        return (
            f"{found.protocol}://{found.account_name}.blob.{found.endpoint}/{found.container_name}"
        )

    def content(self, datastore: str, path: str, *, file: bool) -> str:
        """Return the address of a datastore's file or folder in which something lies, as far as the
        caller may see.
        """
        found: Any = self._asked(
            f"the datastore {datastore}", lambda ml: ml.datastores.get(datastore)
        )
        inner = {
            "azureblob": "container_name",
            "azuredatalakegen2": "filesystem",
        }  # both answer as blobs
        name = next(
            (getattr(found, inner[kind]) for kind in inner if _kind(found).endswith(kind)), None
        )
        if name is None:
            hint = "Use a blob container or ADLS Gen2, or leave this line to the job."
            raise AzureError(
                "MDW-800",
                f"The datastore {datastore} of {self.conf.name} can't be looked into.",
                hint,
            )
        container = f"{found.protocol}://{found.account_name}.blob.{found.endpoint}/{name}"
        where = f"{container}/{path}"
        if not _holds(
            container, path if file else f"{path.strip('/')}/".lstrip("/"), where, self._credential
        ):
            raise AzureError(
                "MDW-802",
                f"There is nothing at {where}.",
                "Put the data there, or correct the path.",
            )
        return where

    def asset(self, name: str, version: str) -> str:
        """Return where a registered data asset lies; a version may be a label, such as `@latest`."""
        chosen = {"label": version[1:]} if version.startswith("@") else {"version": version}
        found = self._asked(
            f"the data asset {name} {version}", lambda ml: ml.data.get(name, **chosen)
        )
        return str(found.path)

    def compute(self, name: str) -> Compute:
        """Return a compute."""
        found: Any = self._asked(f"the compute {name}", lambda ml: ml.compute.get(name))
        inner = getattr(found, "properties", None) or {}
        types = inner.get("instanceTypes") or inner.get("instance_types") or {}
        return Compute(
            name, str(found.type).lower(), str(getattr(found, "size", "") or ""), getattr(found, "max_instances", None),
            tuple(sorted(types)), _identities(found), str(found.location or ""),
        )  # fmt: skip

    def gpus_of(self, size: str, location: str) -> int | None:
        """Return how many GPUs a machine of a size has, None where the size is not listed."""
        found = self._asked(
            "the sizes of machines", lambda ml: list(ml.compute.list_sizes(location=location))
        )
        return next(
            (int(one.gpus or 0) for one in found if str(one.name).lower() == size.lower()), None
        )

    def cores_left(self, size: str, location: str) -> int | None:
        """Return how many cores of a size's family the subscription has left, None where it does
        not tell.
        """
        sizes = self._asked(
            "the sizes of machines", lambda ml: list(ml.compute.list_sizes(location=location))
        )
        family = next(
            (str(one.family) for one in sizes if str(one.name).lower() == size.lower()), None
        )
        usages = self._asked("the quota", lambda ml: list(ml.compute.list_usage(location=location)))
        left = {name.lower(): cores for name, cores in map(_usage, usages)}
        return left.get(family.lower()) if family else None

    def _asked(self, what: str, question: Callable[[MLClient], T]) -> T:
        where = (
            f"{what} in the workspace {self.conf.name}"
            if what
            else f"the workspace {self.conf.name}"
        )
        with asking(where):
            return question(self._client)


def not_too_old(jobs: Iterable[Any], now: float) -> Iterator[Any]:
    """Yield jobs until one comes that is too old to run, where the newest came first till then.

    No page is asked for after that one. The order is Azure's and not promised, so it is looked at.
    """
    before = float("inf")
    in_order = True
    for job in jobs:
        # None is the SDK's word for one that it can't read
        if job is None:
            continue
        created = job.creation_context.created_at.timestamp()
        in_order = in_order and created <= before
        before = created
        if in_order and now - created > OLDEST_SECONDS:
            return
        yield job


@contextmanager
def _outside_git() -> Iterator[None]:
    """Keep the SDK from adding the address, branch and commit of whatever repository the caller
    stands in.

    It asks `git` in the working directory and reads AZUREML_GIT_*; an address may hold a password,
    of which it knows only some kinds. Meadow's own code is told by its digest, a tag of the job.
    """
    before = dict(os.environ)
    for name in [name for name in before if name.startswith("AZUREML_GIT_")]:
        del os.environ[name]
    os.environ["GIT_DIR"] = os.devnull  # no repository
    try:
        yield
    finally:
        for name in ("GIT_DIR", *(name for name in before if name.startswith("AZUREML_GIT_"))):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def _kind(datastore: Any) -> str:
    return str(datastore.type).lower().replace("_", "")


def _holds(container: str, prefix: str, where: str, credential: TokenCredential | None) -> bool:
    """Return whether a container has a blob that begins so; an account that is not reached is given
    up soon.
    """
    from azure.core.exceptions import AzureError as ClientError
    from azure.core.exceptions import ResourceNotFoundError
    from azure.storage.blob import ContainerClient

    bounds: dict[str, Any] = {"retry_total": 1, "connection_timeout": 5, "read_timeout": 20}
    try:
        with ContainerClient.from_container_url(
            container, credential or sign_in(), **bounds
        ) as client:
            return (
                next(
                    iter(client.list_blob_names(name_starts_with=prefix, results_per_page=1)), None
                )
                is not None
            )
    except ResourceNotFoundError:
        return False
    except ClientError as error:
        raise refusal(error, where, "Storage Blob Data Reader") from error


def _identities(compute: Any) -> tuple[str, ...]:
    """Return a compute's own identity and those that were assigned to it."""
    held = getattr(compute, "identity", None)
    if held is None:
        return ()
    own = (
        (f"{compute.name}'s own identity, principal {held.principal_id}",)
        if held.principal_id
        else ()
    )
    given = {
        str(one.resource_id).rpartition("/")[2]: vars(one)
        for one in held.user_assigned_identities or []
    }
    # 1.35 of the SDK leaves the service's own key in the object
    return (
        *own,
        *(
            f"{name}, client id {told.get('clientId', told['client_id'])}"
            for name, told in given.items()
        ),
    )


@contextmanager
def asking(where: str) -> Iterator[None]:
    """Turn what the SDK raises into AzureError."""
    from azure.ai.ml.exceptions import MlException
    from azure.core.exceptions import AzureError as ClientError

    try:
        yield
    except (ClientError, MlException) as error:
        raise refusal(error, where, ROLE) from error


def as_command(spec: JobSpec) -> Command:
    """Return a specification as the SDK's own object."""
    from azure.ai.ml import (
        Input,
        ManagedIdentityConfiguration,
        Output,
        PyTorchDistribution,
        UserIdentityConfiguration,
        command,
    )
    from azure.ai.ml.entities import BuildContext, Environment

    managed = spec.identity == "managed"
    image = (
        spec.environment
        if isinstance(spec.environment, str)
        else Environment(build=BuildContext(path=str(spec.environment.absolute())))
    )
    made: Command = command(
        display_name=spec.display_name,
        experiment_name=spec.experiment,
        command=spec.command,
        code=str(spec.code.absolute()),
        environment=image,
        compute=spec.compute,
        timeout=spec.timeout,
        tags=spec.tags,
        inputs={name: Input(**given) for name, given in spec.inputs.items()},
        outputs={name: Output(**given) for name, given in spec.outputs.items()},
        environment_variables=spec.variables,
        identity=ManagedIdentityConfiguration() if managed else UserIdentityConfiguration(),
        instance_count=spec.instance_count,
        instance_type=spec.instance_type,
        shm_size=spec.shm_size,
        job_tier=spec.job_tier,
        distribution=PyTorchDistribution(process_count_per_instance=spec.processes)
        if spec.distributed
        else None,
    )
    return made


def _seen(job: Any) -> AzureJob:
    tags = job.tags or {}
    status = getattr(job.status, "value", job.status)
    created = getattr(job.creation_context, "created_at", None)
    return AzureJob(
        str(job.name),
        tags.get(TAG_ROLE, ""),
        tags.get(TAG_SILO, ""),
        str(status),
        str(job.studio_url or ""),
        created.timestamp() if created is not None else 0.0,
    )


def _usage(usage: Any) -> tuple[str, int]:
    """Return a usage's family and what is left of it; 1.35 of the SDK leaves the service's own keys
    in the object.
    """
    told = vars(usage)
    name, used = told["name"], told.get("currentValue", told.get("current_value"))
    family = name.get("value", "") if isinstance(name, dict) else getattr(name, "value", name)
    return str(family), int(told["limit"]) - int(used or 0)
