"""Runs each submitted job's command as a process of this machine, and reports as Azure ML does.

A job goes through the states of a cluster's: Preparing while its image is built, Queued until there
is a node, Starting until its container runs, Running, Finalizing. One whose low-priority node is
taken away is Queued again, and starts anew on an empty disk.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from azureml_jobs.rehearsal.cluster_node import POLL_SECONDS, End, Node, free_port
from azureml_jobs.rehearsal.demands import Demands, Preempted
from azureml_jobs.rehearsal.images import LOG, AnyImage, Images, failure_message
from azureml_jobs.rehearsal.job_commands import command, seconds_of
from azureml_jobs.rehearsal.job_environment import JobFacts, machine_variables, ranks, run_variables
from azureml_jobs.rehearsal.machines import Machines
from azureml_jobs.rehearsal.mlflow_tracking import MlflowTracking
from azureml_jobs.rehearsal.mounts import ARTIFACTS, BlobLocation, MountFailed, Mounts
from azureml_jobs.rehearsal.networks import Networks
from azureml_jobs.rehearsal.node_identity import NodeIdentities
from azureml_jobs.rehearsal.resources import Address, Json, Resources
from azureml_jobs.rehearsal.tokens import Identity, Tokens

ENDED: Final = ("Completed", "Failed", "Canceled")
_MLFLOW_STATUS: Final = {"Completed": "FINISHED", "Failed": "FAILED", "Canceled": "KILLED"}


@dataclass
class Services:
    """What a job needs of the cloud around it."""

    demands: Demands
    machines: Machines
    resources: Resources
    mounts: Mounts
    tracking: MlflowTracking
    tokens: Tokens
    nodes: NodeIdentities
    networks: Networks
    host: str
    client_environment: dict[str, str] = field(default_factory=dict)
    images: Images = field(default_factory=AnyImage)


class _Failed(Exception):
    """A job can't go on, and says why."""


class _Cancelled(Exception):
    """A job was cancelled before it ran."""


@dataclass
class Job:
    """One submitted command job; `resource` is what ARM shows, with a status that changes."""

    resource: Json
    folder: Path
    submitter: Identity
    services: Services
    started: float | None = None
    ended: float | None = None
    error: str = ""
    error_code: str = "UserError"
    cancelled: bool = False
    _node: Node | None = None
    _thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """Return the job's name, which is its run id too."""
        return str(self.resource["name"])

    @property
    def properties(self) -> Json:
        """Return what was submitted."""
        properties: Json = self.resource["properties"]
        return properties

    @property
    def workspace(self) -> str:
        """Return the id of its workspace."""
        return Address(str(self.resource["id"])).workspace.id

    @property
    def status(self) -> str:
        """Return its status, from NotStarted to Completed, Failed or Canceled."""
        return str(self.properties["status"])

    @property
    def compute(self) -> Json:
        """Return the compute that it was sent to."""
        return self.services.resources.get(str(self.properties["computeId"])) or {}

    @property
    def by_submitter(self) -> bool:
        """Return whether it acts as whoever submitted it, instead of as its compute."""
        identity = self.properties.get("identity") or {}
        return bool(identity.get("identityType") == "UserIdentity")

    def identity(self) -> Identity:
        """Return the identity that it signs in with: its submitter's, or its compute's."""
        if self.by_submitter:
            return self.submitter
        name = str(self.compute.get("identity", {}).get("name", "nobody"))
        identity, _ = self.services.tokens.register(name)
        return identity

    def signed_in(self) -> dict[str, str]:
        """Return the variables by which its processes get tokens."""
        nodes = self.services.nodes
        kubernetes = self.compute["properties"]["computeType"] == "Kubernetes"
        if self.by_submitter:
            return nodes.of_submitter(self.submitter, kubernetes=kubernetes)
        return nodes.of_compute(self.identity(), kubernetes=kubernetes)

    def logs(self) -> dict[str, Path]:
        """Return the logs by the names that the service gives them."""
        paths = sorted([*self.folder.glob("user_logs/*.txt"), *self.folder.glob(LOG)])
        return {path.relative_to(self.folder).as_posix(): path for path in paths}

    def start(self) -> None:
        """Start it, in a thread."""
        self._thread = threading.Thread(
            target=self._run_and_report, name=f"job {self.name}", daemon=True
        )
        self._thread.start()

    def cancel(self) -> None:
        """Request its cancellation, which the job's thread carries out."""
        if self.status not in ENDED:
            self.properties["status"] = "CancelRequested"
        self.cancelled = True

    def preempt(self) -> None:
        """Take its node away, as Azure may at any time where the node is a low-priority one.

        Raises ValueError where it is not, or where the job has no node now.
        """
        properties = self.compute["properties"].get("properties") or {}
        if properties.get("vmPriority") != "LowPriority" or self._node is None:
            raise ValueError(f"{self.name} runs on no low-priority node")
        self._node.take_away()

    def join(self) -> None:
        """Wait until it has ended."""
        if self._thread is not None:
            self._thread.join()

    def _run_and_report(self) -> None:
        self.started = time.time()
        tracking = self.services.tracking
        status = "Failed"
        experiment = str(self.properties["experimentName"])
        title = self.properties["displayName"]
        tags = _texts(self.properties.get("tags"))
        try:
            experiment_id = tracking.start_run(self.workspace, experiment, self.name, title, tags)
            status = self._run(experiment_id)
        except (MountFailed, _Failed) as reason:
            self.error = str(reason)
        except _Cancelled:
            status = "Canceled"
        except Exception as error:
            self.error = f"the stand-in failed: {type(error).__name__}: {error}"
        finally:
            self.ended = time.time()
            # KeyError: its MLflow run was never started.
            with suppress(KeyError):
                tracking.end_run(self.name, _MLFLOW_STATUS[status])
            # Last: a client that sees the job ended may read everything else of it.
            self.properties["status"] = status

    def _run(self, experiment_id: str) -> str:
        """Go through the states of a job; return the last one."""
        durations = self.services.demands.durations
        self._enter("Preparing")
        self._build()
        self._pause(durations.build)
        while True:
            self._enter("Queued")
            self._pause(durations.queue)
            while not self._has_quota():
                self._pause(POLL_SECONDS)
            self._enter("Starting")
            self._pause(durations.start)
            end, status = self._on_a_node(experiment_id)
            if end is not End.PREEMPTED:
                return status
            if self.services.demands.preempted is Preempted.ENDED:
                self.error = "The node was preempted, and there is no capacity for another one."
                return "Canceled"

    def _enter(self, status: str) -> None:
        if self.cancelled:
            raise _Cancelled
        self.properties["status"] = status

    def _pause(self, seconds: float) -> None:
        """Wait, but not for a job that is cancelled meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.cancelled:
                raise _Cancelled
            time.sleep(min(POLL_SECONDS, left))

    def _build(self) -> None:
        """Have its image built; raises _Failed."""
        environment = str(self.properties["environmentId"])
        build = self.services.images.build(environment)
        if build.log:
            log = self.folder / LOG
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(build.log)
        if build.failed:
            self.error_code = "ImageBuildFailure"
            raise _Failed(failure_message(environment))

    def _has_quota(self) -> bool:
        """Return whether its cluster gets a node; the cluster says why not."""
        error = self.services.machines.refusal(self.compute)
        with self.services.resources.lock:
            details = self.compute["properties"].get("properties") or {}
            details["errors"] = [error] if error else []
        return error is None

    def _on_a_node(self, experiment_id: str) -> tuple[End, str]:
        """Run on a node of its own, whose disk is emptied at the end; return how it ended."""
        node = Node(self.folder / "node", self.folder / "user_logs")
        try:
            line, environment = self._laid_out(node, experiment_id)
            self._enter("Running")
            self._node = node
            nodes = int((self.properties.get("resources") or {}).get("instanceCount") or 1)
            of_ranks = ranks(self.properties.get("distribution"), nodes, free_port())
            signed_in = self.signed_in()
            try:
                compute = str(self.properties["computeId"])
                network = self.services.networks.around(compute, self._mounted(node))
                variables = [{**environment, **signed_in, **rank} for rank in of_ranks]
                node.start(line, variables, network)
                limit = seconds_of((self.properties.get("limits") or {}).get("timeout"))
                end, worst = node.wait(lambda: self.cancelled, limit)
            finally:
                self._node = None
                self.services.nodes.detach(signed_in)
            if end is End.PREEMPTED:
                return end, ""
            status = self._judged(end, worst, limit)
            self.properties["status"] = "Finalizing"
            self._keep(node)
            return end, status
        finally:
            node.wipe()

    def _laid_out(self, node: Node, experiment_id: str) -> tuple[str, dict[str, str]]:
        """Bring code and inputs to a node; return the command and its variables."""
        if self.properties.get("codeId"):
            self.services.mounts.snapshot(str(self.properties["codeId"]), node.work)
        bound, variables = self._inputs(node)
        for name in self._outputs():
            folder = node.folder("outputs", name)
            folder.mkdir(parents=True, exist_ok=True)
            bound[f"outputs.{name}"] = str(folder)
            variables[f"AZURE_ML_OUTPUT_{name}"] = str(folder)
        environment = {
            **self._environment(node.work, experiment_id),
            **variables,
            **_texts(self.properties.get("environmentVariables")),
        }
        return command(str(self.properties["command"]), bound), environment

    def _judged(self, end: End, worst: int, limit: float | None) -> str:
        """Return the status of a job whose processes have ended."""
        if end is End.CANCELLED:
            return "Canceled"
        if end is End.LATE:
            self.error = f"The job exceeded its time limit of {limit:.0f} seconds."
            return "Failed"
        if worst:
            self.error = f"Execution failed. User process 'bash' exited with status code {worst}."
            return "Failed"
        return "Completed"

    def _keep(self, node: Node) -> None:
        """Upload what a job leaves behind, before its node is given back."""
        self._upload(node.work / "outputs", "outputs")
        self._upload(self.folder / "user_logs", "user_logs")
        for name, uri in self._outputs().items():
            self.services.mounts.upload(
                self.identity().name, self.workspace, uri, node.folder("outputs", name)
            )

    def _inputs(self, node: Node) -> tuple[dict[str, str], dict[str, str]]:
        """Return each input's value for the command, and the variables that hold it too."""
        bound: dict[str, str] = {}
        variables: dict[str, str] = {}
        for name, job_input in (self.properties.get("inputs") or {}).items():
            if job_input["jobInputType"] == "literal":
                value = str(job_input["value"])
                variables[f"AZUREML_PARAMETER_{name}"] = value
            else:
                value = str(self._downloaded(node, name, job_input))
                variables[f"AZURE_ML_INPUT_{name}"] = value
            bound[f"inputs.{name}"] = value
        return bound, variables

    def _mounted(self, node: Node) -> list[Path]:
        """Return the inputs that a job may not write: those that are mounted, not downloaded."""
        inputs = (self.properties.get("inputs") or {}).items()
        return [
            node.folder("inputs", name)
            for name, job_input in inputs
            if job_input["jobInputType"] != "literal" and job_input.get("mode") == "ReadOnlyMount"
        ]

    def _downloaded(self, node: Node, name: str, job_input: Json) -> Path:
        folder = node.folder("inputs", name)
        uri = job_input["uri"]
        self.services.mounts.download(self.identity().name, self.workspace, uri, folder)
        if job_input["jobInputType"] == "uri_file":
            return next(folder.iterdir())
        return folder

    def _outputs(self) -> dict[str, str]:
        """Return to which address each output is uploaded."""
        outputs = {}
        for name, output in (self.properties.get("outputs") or {}).items():
            default = f"azureml://datastores/workspaceblobstore/paths/azureml/{self.name}/{name}/"
            output["uri"] = str(output.get("uri") or default).replace("${{name}}", self.name)
            outputs[name] = output["uri"]
        return outputs

    def _environment(self, work: Path, experiment_id: str) -> dict[str, str]:
        services = self.services
        workspace = services.resources.get(self.workspace) or {}
        facts = JobFacts(
            name=self.name,
            workspace=self.workspace,
            workspace_uuid=workspace["properties"]["workspaceId"],
            experiment=self.properties["experimentName"],
            experiment_id=experiment_id,
            host=services.host,
            token=services.tokens.issue(self.identity(), run_audience(self.workspace)),
            folder=work,
        )
        return {**machine_variables(services.client_environment), **run_variables(facts)}

    def _upload(self, folder: Path, name: str) -> None:
        """Upload a folder as one of the run's artefacts."""
        id = f"{self.workspace}/datastores/workspaceartifactstore"
        store = self.services.resources.get(id) or {}
        account = store["properties"]["accountName"]
        path = f"ExperimentRun/dcid.{self.name}/{name}"
        target = BlobLocation(account, ARTIFACTS, path, by_identity=False)
        self.services.mounts.store(target, folder)


@dataclass
class Executor:
    """All jobs of a rehearsal by their ids; safe to use from several threads."""

    folder: Path
    services: Services
    jobs: dict[str, Job] = field(default_factory=dict)

    def submit(self, resource: Json, submitter: Identity) -> None:
        """Start a job."""
        job = Job(resource, self.folder / str(resource["name"]), submitter, self.services)
        self.jobs[str(resource["id"]).lower()] = job
        job.start()

    def get(self, id: str) -> Job | None:
        """Return a job by its ARM id."""
        return self.jobs.get(id.lower())

    def stop(self) -> None:
        """Cancel what still runs, and wait for it."""
        for job in self.jobs.values():
            job.cancel()
        for job in self.jobs.values():
            job.join()


def run_audience(workspace: str) -> str:
    """Return the audience of a run's token: it is valid only for the run's own workspace."""
    return f"azureml-run:{workspace.lower()}"


def _texts(values: Any) -> dict[str, str]:
    return {str(name): str(value) for name, value in (values or {}).items()}
