"""Runs each submitted job's command as a process of this machine, and reports as Azure ML does."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from azureml_jobs.rehearsal.job_environment import JobFacts, machine_variables, ranks, run_variables
from azureml_jobs.rehearsal.mlflow_tracking import MlflowTracking
from azureml_jobs.rehearsal.mounts import ARTIFACTS, BlobLocation, MountFailed, Mounts
from azureml_jobs.rehearsal.node_identity import NodeIdentities
from azureml_jobs.rehearsal.resources import Address, Json, Resources
from azureml_jobs.rehearsal.tokens import Identity, Tokens

ENDED: Final = ("Completed", "Failed", "Canceled")
POLL_SECONDS: Final = 0.1
GRACE_SECONDS: Final = 20.0
"""The time between SIGTERM and SIGKILL."""
_MLFLOW_STATUS: Final = {"Completed": "FINISHED", "Failed": "FAILED", "Canceled": "KILLED"}
_BINDING: Final = re.compile(r"\$\{\{\s*([\w.]+)\s*\}\}")
_OPTIONAL: Final = re.compile(r"\$\[\[(.*?)\]\]")


@dataclass
class Services:
    """What a job needs of the cloud around it."""

    resources: Resources
    mounts: Mounts
    tracking: MlflowTracking
    tokens: Tokens
    nodes: NodeIdentities
    host: str
    client_environment: dict[str, str] = field(default_factory=dict)


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
    cancelled: bool = False
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
        paths = sorted(self.folder.glob("user_logs/*.txt"))
        return {f"user_logs/{path.name}": path for path in paths}

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
        except MountFailed as reason:
            self.error = str(reason)
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
        self.properties["status"] = "Preparing"
        work = self.folder / "work"
        logs = self.folder / "user_logs"
        (work / "outputs").mkdir(parents=True, exist_ok=True)
        logs.mkdir(parents=True, exist_ok=True)
        if self.properties.get("codeId"):
            self.services.mounts.snapshot(str(self.properties["codeId"]), work)
        bound, variables = self._inputs()
        outputs = self._outputs()
        for name, (folder, _) in outputs.items():
            bound[f"outputs.{name}"] = str(folder)
            variables[f"AZURE_ML_OUTPUT_{name}"] = str(folder)
        if self.cancelled:
            return "Canceled"
        self.properties["status"] = "Running"
        line = command(str(self.properties["command"]), bound)
        signed_in = self.signed_in()
        environment = {
            **self._environment(work, experiment_id),
            **signed_in,
            **variables,
            **_texts(self.properties.get("environmentVariables")),
        }
        try:
            status = self._wait_for(self._processes(line, work, environment))
        finally:
            self.services.nodes.detach(signed_in)
        self.properties["status"] = "Finalizing"
        self._upload(work / "outputs", "outputs")
        self._upload(logs, "user_logs")
        for folder, uri in outputs.values():
            self.services.mounts.upload(self.identity().name, self.workspace, uri, folder)
        return status

    def _inputs(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return each input's value for the command, and the variables that hold it too."""
        bound: dict[str, str] = {}
        variables: dict[str, str] = {}
        for name, job_input in (self.properties.get("inputs") or {}).items():
            if job_input["jobInputType"] == "literal":
                value = str(job_input["value"])
                variables[f"AZUREML_PARAMETER_{name}"] = value
            else:
                value = str(self._downloaded(name, job_input))
                variables[f"AZURE_ML_INPUT_{name}"] = value
            bound[f"inputs.{name}"] = value
        return bound, variables

    def _downloaded(self, name: str, job_input: Json) -> Path:
        folder = self.folder / "inputs" / name
        uri = job_input["uri"]
        self.services.mounts.download(self.identity().name, self.workspace, uri, folder)
        if job_input["jobInputType"] == "uri_file":
            return next(folder.iterdir())
        return folder

    def _outputs(self) -> dict[str, tuple[Path, str]]:
        """Return each output's folder, created, and the address to which it is uploaded."""
        outputs = {}
        for name, output in (self.properties.get("outputs") or {}).items():
            default = f"azureml://datastores/workspaceblobstore/paths/azureml/{self.name}/{name}/"
            output["uri"] = str(output.get("uri") or default).replace("${{name}}", self.name)
            folder = self.folder / "outputs" / name
            folder.mkdir(parents=True, exist_ok=True)
            outputs[name] = (folder, output["uri"])
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

    def _processes(
        self, line: str, work: Path, environment: dict[str, str]
    ) -> list[subprocess.Popen[bytes]]:
        nodes = int((self.properties.get("resources") or {}).get("instanceCount") or 1)
        rank_variables = ranks(self.properties.get("distribution"), nodes, _free_port())
        processes = []
        for rank, variables in enumerate(rank_variables):
            alone = len(rank_variables) == 1
            name = "std_log.txt" if alone else f"std_log_process_{rank}.txt"
            with (self.folder / "user_logs" / name).open("wb") as log:
                process = subprocess.Popen(
                    ["bash", "-c", line],
                    cwd=work,
                    env={**environment, **variables},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            processes.append(process)
        return processes

    def _wait_for(self, processes: list[subprocess.Popen[bytes]]) -> str:
        """Wait until all processes have ended, and end them where need be; return the status."""
        limit = seconds_of((self.properties.get("limits") or {}).get("timeout"))
        deadline = time.monotonic() + limit if limit else None
        late = False
        while any(process.poll() is None for process in processes):
            late = deadline is not None and time.monotonic() > deadline
            if self.cancelled or late:
                _end(processes)
            time.sleep(POLL_SECONDS)
        # What a command left running in its group ends with the container on Azure.
        _signal(processes, signal.SIGKILL)
        worst = max((process.returncode for process in processes), key=abs)
        if self.cancelled:
            return "Canceled"
        if late:
            self.error = f"The job exceeded its time limit of {limit:.0f} seconds."
            return "Failed"
        if worst:
            self.error = f"Execution failed. User process 'bash' exited with status code {worst}."
            return "Failed"
        return "Completed"

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


def command(text: str, values: dict[str, str]) -> str:
    """Return a command with its `${{...}}` replaced by their values.

    Optional `$[[...]]` parts that bind something without a value are left out.
    """

    def optional_part(match: re.Match[str]) -> str:
        part = match[1]
        complete = set(_BINDING.findall(part)) <= values.keys()
        return part if complete else ""

    text = _OPTIONAL.sub(optional_part, text)
    return _BINDING.sub(lambda binding: values[binding[1]], text)


def bindings(text: str) -> set[str]:
    """Return the names that a command binds outside its optional parts, such as `inputs.data`."""
    return set(_BINDING.findall(_OPTIONAL.sub("", text)))


def run_audience(workspace: str) -> str:
    """Return the audience of a run's token: it is valid only for the run's own workspace."""
    return f"azureml-run:{workspace.lower()}"


def seconds_of(duration: Any) -> float | None:
    """Return an ISO 8601 duration such as PT10M in seconds; None where there is none."""
    pattern = r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?)?"
    match = re.fullmatch(pattern, str(duration or ""))
    if not match:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _texts(values: Any) -> dict[str, str]:
    return {str(name): str(value) for name, value in (values or {}).items()}


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    _signal(processes, signal.SIGTERM)
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    _signal(processes, signal.SIGKILL)


def _signal(processes: list[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
