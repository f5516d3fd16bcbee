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
from azureml_jobs.rehearsal.mounts import ARTIFACTS, MountFailed, Mounts, Place
from azureml_jobs.rehearsal.resources import Address, Json, Resources
from azureml_jobs.rehearsal.tokens import Identity, Tokens

OVER: Final = ("Completed", "Failed", "Canceled")
POLL_SECONDS: Final = 0.1
GRACE_SECONDS: Final = 20.0
"""Between SIGTERM and SIGKILL."""
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
    host: str
    identity_endpoint: str = ""
    client_environment: dict[str, str] = field(default_factory=dict)


@dataclass
class Job:
    """One submitted command job; `resource` is what ARM shows, and its status changes while it runs."""

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
        """Return where it is between NotStarted and Completed, Failed or Canceled."""
        return str(self.properties["status"])

    def identity(self) -> Identity:
        """Return as whom it signs in: the submitter, or its compute's managed identity."""
        if (self.properties.get("identity") or {}).get("identityType") == "UserIdentity":
            return self.submitter
        compute = self.services.resources.get(str(self.properties["computeId"])) or {}
        return Identity(str(compute.get("identity", {}).get("name", "nobody")))

    def logs(self) -> dict[str, Path]:
        """Return the logs by the names that the service gives them."""
        return {
            f"user_logs/{path.name}": path for path in sorted(self.folder.glob("user_logs/*.txt"))
        }

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread = threading.Thread(target=self._guarded, name=f"job {self.name}", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Ask for its end; the thread sees to it."""
        if self.status not in OVER:
            self.properties["status"] = "CancelRequested"
        self.cancelled = True

    def join(self) -> None:
        """Wait until it is over."""
        if self._thread is not None:
            self._thread.join()

    def _guarded(self) -> None:
        self.started = time.time()
        tracking, status = self.services.tracking, "Failed"
        experiment = str(self.properties["experimentName"])
        tags = {str(key): str(value) for key, value in (self.properties.get("tags") or {}).items()}
        try:
            number = tracking.start_run(
                self.workspace, experiment, self.name, self.properties["displayName"], tags
            )
            status = self._run(number)
        except MountFailed as reason:
            self.error = str(reason)
        except Exception as error:
            self.error = f"the stand-in failed: {type(error).__name__}: {error}"
        finally:
            self.ended = time.time()
            with suppress(KeyError):  # the run was never begun
                tracking.end_run(self.name, _MLFLOW_STATUS[status])
            self.properties["status"] = status

    def _run(self, experiment_id: str) -> str:
        self.properties["status"] = "Preparing"
        work, logs = self.folder / "work", self.folder / "user_logs"
        for path in (work / "outputs", logs):
            path.mkdir(parents=True, exist_ok=True)
        if self.properties.get("codeId"):
            self.services.mounts.snapshot(str(self.properties["codeId"]), work)
        values, variables = self._inputs()
        outputs = self._outputs()
        values |= {f"outputs.{name}": str(folder) for name, (folder, _) in outputs.items()}
        variables |= {
            f"AZURE_ML_OUTPUT_{name}": str(folder) for name, (folder, _) in outputs.items()
        }
        if self.cancelled:
            return "Canceled"
        self.properties["status"] = "Running"
        status = self._processes(
            command(str(self.properties["command"]), values), variables, work, experiment_id
        )
        self.properties["status"] = "Finalizing"
        self._upload(work / "outputs", "outputs")
        self._upload(logs, "user_logs")
        for folder, uri in outputs.values():
            self.services.mounts.keep(self.identity().name, self.workspace, uri, folder)
        return status

    def _inputs(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return each input's value for the command, and the variables that name it."""
        values, variables = dict[str, str](), dict[str, str]()
        for name, given in (self.properties.get("inputs") or {}).items():
            if given["jobInputType"] == "literal":
                values[f"inputs.{name}"] = variables[f"AZUREML_PARAMETER_{name}"] = str(
                    given["value"]
                )
                continue
            folder = self.folder / "inputs" / name
            self.services.mounts.bring(self.identity().name, self.workspace, given["uri"], folder)
            path = next(folder.iterdir()) if given["jobInputType"] == "uri_file" else folder
            values[f"inputs.{name}"] = variables[f"AZURE_ML_INPUT_{name}"] = str(path)
        return values, variables

    def _outputs(self) -> dict[str, tuple[Path, str]]:
        made = {}
        for name, wanted in (self.properties.get("outputs") or {}).items():
            default = f"azureml://datastores/workspaceblobstore/paths/azureml/{self.name}/{name}/"
            wanted["uri"] = str(wanted.get("uri") or default).replace("${{name}}", self.name)
            made[name] = (self.folder / "outputs" / name, wanted["uri"])
            made[name][0].mkdir(parents=True, exist_ok=True)
        return made

    def _variables(self, work: Path, experiment_id: str) -> dict[str, str]:
        services, identity = self.services, self.identity()
        about = services.resources.get(self.workspace) or {}
        token = services.tokens.issue(identity, run_audience(self.workspace))
        facts = JobFacts(
            self.name, self.workspace, about["properties"]["workspaceId"], self.properties["experimentName"],
            experiment_id, services.host, token, work,
        )  # fmt: skip
        _, secret = services.tokens.known(identity.name)
        own = {"MSI_ENDPOINT": services.identity_endpoint, "MSI_SECRET": secret}
        return {**machine_variables(services.client_environment), **run_variables(facts), **own}

    def _processes(self, line: str, own: dict[str, str], work: Path, experiment_id: str) -> str:
        environment = {**self._variables(work, experiment_id), **own}
        environment |= {
            str(k): str(v) for k, v in (self.properties.get("environmentVariables") or {}).items()
        }
        nodes = int((self.properties.get("resources") or {}).get("instanceCount") or 1)
        places = ranks(self.properties.get("distribution"), nodes, _free_port())
        names = (
            ["std_log.txt"]
            if len(places) == 1
            else [f"std_log_process_{i}.txt" for i in range(len(places))]
        )
        processes = []
        for name, place in zip(names, places, strict=True):
            with (self.folder / "user_logs" / name).open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        ["bash", "-c", line], cwd=work, env={**environment, **place}, stdout=log,
                        stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                    )
                )  # fmt: skip
        return self._watched(processes)

    def _watched(self, processes: list[subprocess.Popen[bytes]]) -> str:
        limit = seconds_of((self.properties.get("limits") or {}).get("timeout"))
        end = time.monotonic() + limit if limit else None
        late = False
        while any(process.poll() is None for process in processes):
            late = end is not None and time.monotonic() > end
            if self.cancelled or late:
                _end(processes)
            time.sleep(POLL_SECONDS)
        _signal(
            processes, signal.SIGKILL
        )  # what a command left running in its group ends with its container
        worst = max((process.returncode for process in processes), key=abs)
        if self.cancelled:
            return "Canceled"
        if late:
            self.error = f"The job exceeded its time limit of {limit:.0f} seconds."
        elif worst:
            self.error = f"Execution failed. User process 'bash' exited with status code {worst}."
        return "Failed" if worst or late else "Completed"

    def _upload(self, folder: Path, below: str) -> None:
        store = (
            self.services.resources.get(f"{self.workspace}/datastores/workspaceartifactstore") or {}
        )
        place = Place(
            store["properties"]["accountName"],
            ARTIFACTS,
            f"ExperimentRun/dcid.{self.name}/{below}",
            False,
        )
        self.services.mounts.store(place, folder)


@dataclass
class Executor:
    """All jobs of a rehearsal by their ids; safe to use from several threads."""

    folder: Path
    services: Services
    jobs: dict[str, Job] = field(default_factory=dict)

    def submit(self, resource: Json, submitter: Identity) -> None:
        """Take a job up."""
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
    """Return a command with its `${{...}}` resolved and the optional `$[[...]]` parts without a value left out."""
    text = _OPTIONAL.sub(
        lambda part: part[1] if all(b in values for b in _BINDING.findall(part[1])) else "", text
    )
    return _BINDING.sub(lambda binding: values[binding[1]], text)


def bindings(text: str) -> set[str]:
    """Return the names that a command binds outside its optional parts, such as `inputs.data`."""
    return set(_BINDING.findall(_OPTIONAL.sub("", text)))


def run_audience(workspace: str) -> str:
    """Return the audience of a run's token: good for its own workspace alone."""
    return f"azureml-run:{workspace.lower()}"


def seconds_of(duration: Any) -> float | None:
    """Return an ISO 8601 duration such as PT10M in seconds; None where there is none."""
    match = re.fullmatch(
        r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?)?", str(duration or "")
    )
    if not match:
        return None
    return sum(
        float(part or 0) * each
        for part, each in zip(match.groups(), (86400, 3600, 60, 1), strict=True)
    )


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
