"""From a configuration to job specifications, as plain values, before anything is sent to Azure ML.

`server_job` and `silo_job` are pure. `as_yaml` writes a specification as `az ml job create -f`
takes it; `azureml_jobs.backends.workspace` sends the same specification through the SDK.

    MDW-144 the federation names an image that there is not
    MDW-810 the federation does not say what a job needs
    MDW-811 a command binds an input or output that the job does not have
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

from azureml_jobs.identity.azure_sign_in import MANAGED
from azureml_jobs.identity.azure_sign_in import VARIABLE as IDENTITY
from azureml_jobs.jobs.relay_overrides import no_proxy_override, relay_overrides
from conf.errors import AzureError, ConfigError
from conf.schema import Conf, OrchestratorConf, SiloConf, WorkspaceConf
from conf.targets.asked import nested_targets
from conf.targets.known import VARIABLE as OUTSIDE
from conf.telemetry import OFF

Plain = dict[str, Any]
T = TypeVar("T")

SERVER: Final = "server"
SILO: Final = "silo"
"""The roles of a job."""
LISTEN: Final = "0.0.0.0:9092"
"""Where an orchestrator on Azure listens, unless its owner says otherwise."""
FEDERATION_FILE: Final = "federation.yaml"
SILO_FILE: Final = "silo.json"
CA_FILE: Final = "ca.pem"
ADMISSION_FILE: Final = "admission.pem"
OUTBOUND_CA_FILE: Final = "outbound-ca.pem"
"""Beside the code in a snapshot: public federation file; one silo's settings; CA's certificate; the
silo's own, where its owner names one; the CAs by which the way to a relay is trusted."""
SHM: Final = "2g"
ENVIRONMENTS: Final = Path(__file__).parents[1] / "environments"
AZUREML: Final = "azureml:"
"""With what the name of an environment begins that Azure ML has already."""
DEFAULT_DATASTORE: Final = "workspaceblobstore"
"""The blob store that each workspace has of its own."""
_DATASTORES: Final = "azureml://datastores/"
TAG_FEDERATION: Final = "meadow_federation"
TAG_ROLE: Final = "meadow_role"
TAG_SILO: Final = "meadow_silo"
TAG_CODE: Final = "meadow_code"
TAG_CONFIG: Final = "meadow_config"
_PIPELINE_SCHEMA: Final = "https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json"
_SCHEDULE_SCHEMA: Final = "https://azuremlschemas.azureedge.net/latest/schedule.schema.json"
_SCHEMA: Final = "https://azuremlschemas.azureedge.net/latest/commandJob.schema.json"
_BARE: Final = re.compile(r"[A-Za-z0-9_./:-]+")
_BINDING: Final = re.compile(r"\$\{\{\s*((?:inputs|outputs)\.\w+)\s*\}\}")


@dataclass(frozen=True)
class JobSpec:
    """One command job: the fields of the portal's form, in the words of Azure ML's YAML."""

    workspace: WorkspaceConf
    display_name: str
    experiment: str
    command: str
    code: Path
    environment: Path | str  # the folder of a Docker context, or the name of one that is there
    compute: str
    timeout: int  # seconds
    tags: dict[str, str]
    inputs: dict[str, Plain] = field(default_factory=dict)
    outputs: dict[str, Plain] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    identity: str = "managed"  # managed | user_identity
    instance_count: int = 1
    instance_type: str | None = None
    shm_size: str = SHM
    processes: int = 1  # on each node
    job_tier: str | None = None

    @property
    def distributed(self) -> bool:
        """Return whether several processes share the work."""
        return self.processes > 1 or self.instance_count > 1


@dataclass(frozen=True)
class Code:
    """The snapshot that a job is sent with, and the digests in its tags."""

    folder: Path
    release: str
    config_digest: str
    outside: str = ""
    """The job's list of code from outside the tree (`conf.targets.known`)."""
    environment: Path | None = None
    """The folder of its image, where that code needs more packages than Meadow's own has."""


def server_job(conf: Conf, code: Code, store: str) -> JobSpec:
    """Return the orchestrator's job; `store` is the address of its container.

    Raises AzureError MDW-810.
    """
    name = conf.federation.name
    orchestrator = conf.federation.orchestrator
    where = "federation.orchestrator"
    workspace = _needed(orchestrator.workspace, f"{where}.workspace")
    compute = _needed(orchestrator.compute, f"{where}.compute")
    datastore = _needed(orchestrator.datastore, f"{where}.datastore")
    vault = _needed(orchestrator.key_vault, f"{where}.key_vault")
    overrides = {
        "federation.file": FEDERATION_FILE,
        "federation.orchestrator.listen": listen_address(orchestrator),
        "federation.orchestrator.host": _host(orchestrator),
        "federation.orchestrator.store": store,
        "federation.orchestrator.key_vault": vault,
        "federation.orchestrator.idle_timeout": str(orchestrator.idle_timeout),
    }
    overrides |= relay_overrides(conf)
    if orchestrator.outbound.ca is not None:
        overrides["federation.orchestrator.outbound.ca"] = OUTBOUND_CA_FILE
    if orchestrator.stock_listen is not None:
        overrides["federation.orchestrator.stock_listen"] = orchestrator.stock_listen
    if orchestrator.standby:
        overrides["federation.orchestrator.standby"] = "true"
    if orchestrator.stock_grpc_listen is not None:
        overrides["federation.orchestrator.stock_grpc_listen"] = orchestrator.stock_grpc_listen
    nested = nested_targets(conf)
    # Each override is quoted twice: for Hydra's parser, then for the shell that runs the command.
    words = [shlex.quote(f"{key}={_hydra_quoted(value)}") for key, value in overrides.items()]
    words += [shlex.quote(word) for word in no_proxy_override(orchestrator.outbound)]
    if nested:
        # Whoever launches the server owns it: what this command names is allowed.
        allowed = ",".join([*orchestrator.targets, *nested])
        words.append(shlex.quote(f"federation.orchestrator.targets=[{allowed}]"))
    if orchestrator.read_from:
        listed = ",".join(_hydra_quoted(folder) for folder in orchestrator.read_from)
        words.append(shlex.quote(f"federation.orchestrator.read_from=[{listed}]"))
    # Azure ML replaces what stands in `${{...}}` when the job starts.
    output = "\"run.output='${{outputs.runs}}'\""
    command = f"python -m azureml_jobs.cli.main serve {' '.join(words)} {output}"
    runs = f"azureml://datastores/{datastore}/paths/{name}/outputs/${{{{name}}}}/"
    spec = JobSpec(
        workspace=workspace,
        display_name=f"{name}: orchestrator",
        experiment=conf.tracking.experiment,
        command=command,
        code=code.folder,
        environment=image_of(orchestrator.environment, "orchestrator", code),
        compute=compute,
        timeout=orchestrator.timeout,
        tags=_tags(name, SERVER, code),
        outputs={"runs": {"type": "uri_folder", "path": runs, "mode": "upload"}},
        variables=_variables(1, code, MANAGED),
        instance_type=orchestrator.instance_type,
    )
    return _checked(spec)


def silo_job(conf: Conf, silo: str, code: Code, tracking: str, state: str = "") -> JobSpec:
    """Return one silo's job.

    `tracking` is the MLflow address where the orchestrator publishes, `state` where the silo's
    state lasts (`state_address`).

    Raises AzureError MDW-810.
    """
    name = conf.federation.name
    orchestrator = conf.federation.orchestrator
    own = _silo(conf, silo)
    where = f"federation.silos.{silo}"
    workspace = _needed(own.workspace, f"{where}.workspace")
    compute = _needed(own.compute, f"{where}.compute")
    vault = _needed(own.key_vault, f"{where}.key_vault")
    arguments = ["--silo-file", SILO_FILE, "--ca", CA_FILE]
    arguments += ["--key-vault", vault, "--state", "state"]
    if state:
        arguments += ["--state-store", state]
    if own.admission:
        arguments += ["--admission", ADMISSION_FILE]
    if conf.federation.relay.url:
        arguments += ["--relay", conf.federation.relay.url, "--federation", name]
    elif orchestrator.address:
        arguments += ["--server", orchestrator.address, "--federation", name]
    elif orchestrator.rendezvous:
        arguments += ["--rendezvous", f"{orchestrator.rendezvous}/{name}", "--federation", name]
    else:
        arguments += ["--tracking", tracking, "--experiment", conf.tracking.experiment]
        arguments += ["--federation", name]
        if orchestrator.run_id:
            arguments += ["--run-id", orchestrator.run_id]
    if own.idle_timeout != SiloConf.idle_timeout:
        arguments += ["--idle-timeout", f"{own.idle_timeout:g}"]
    command = f"python -m azureml_jobs.cli.main join {shlex.join(arguments)}"
    inputs = {}
    if own.input is not None:
        inputs["data"] = {"type": own.input.type, "path": own.input.path, "mode": own.input.mode}
        # Outside `shlex.join`: Azure ML replaces it before the shell sees the command.
        command += " --data ${{inputs.data}}"
    spec = JobSpec(
        workspace=workspace,
        display_name=f"{name}: {silo}",
        experiment=conf.tracking.experiment,
        command=command,
        code=code.folder,
        environment=image_of(own.environment, "silo", code),
        compute=compute,
        timeout=orchestrator.timeout,
        tags=_tags(name, SILO, code) | {TAG_SILO: silo},
        inputs=inputs,
        variables=_variables(own.threads or conf.trainer.threads, code, own.identity),
        identity="managed" if own.identity == MANAGED else "user_identity",
        instance_count=own.nodes,
        instance_type=own.instance_type,
        shm_size=own.shm_size or SHM,
        processes=max(1, own.gpus),
        job_tier=own.job_tier,
    )
    return _checked(spec)


def state_address(conf: Conf, silo: str, container: Callable[[str], str]) -> str:
    """Return where a silo's state lasts on Azure ML: the address of a blob container and a prefix.

    `container` returns the address of the container of a datastore of the silo's own workspace.
    """
    where = _silo(conf, silo).state or f"{_DATASTORES}{DEFAULT_DATASTORE}"
    if not where.startswith(_DATASTORES):
        return where
    datastore, _, path = where.removeprefix(_DATASTORES).partition("/paths/")
    below = path.strip("/") or f"meadow/{conf.federation.name}/state"
    return f"{container(datastore)}/{below}"


def image_of(environment: str | None, role: str, code: Code | None = None) -> Path | str:
    """Return a job's image: an environment of Azure ML by its name, or the folder that builds it.

    Raises ConfigError MDW-144 for an image that is none of ours.
    """
    if environment is not None and environment.startswith(AZUREML):
        return environment
    if code is not None and code.environment is not None:
        return code.environment
    folder = ENVIRONMENTS / (environment or role)
    if not (folder / "Dockerfile").is_file():
        own = ", ".join(sorted(file.parent.name for file in ENVIRONMENTS.glob("*/Dockerfile")))
        hint = f"Write azureml:NAME:VERSION for one of the workspace, or one of {own}."
        raise ConfigError("MDW-144", f"Meadow has no image {environment!r}.", hint)
    return folder


def _environment(image: Path | str, base: Path | None) -> Plain | str:
    if isinstance(image, str):
        return image
    return {"build": {"path": _path(image, base)}}


def as_plain(spec: JobSpec, base: Path | None = None) -> Plain:
    """Return a specification in the keys of Azure ML's command job schema.

    With `base` its paths are relative to that folder, in which the file will lie.
    """
    plain: Plain = {
        "$schema": _SCHEMA,
        "type": "command",
        "display_name": spec.display_name,
        "experiment_name": spec.experiment,
        "command": spec.command,
        "code": _path(spec.code, base),
        "environment": _environment(spec.environment, base),
        "compute": f"azureml:{spec.compute}",
        "identity": {"type": spec.identity},
        "environment_variables": spec.variables,
        "resources": _resources(spec),
        "limits": {"timeout": spec.timeout},
        "tags": spec.tags,
    }
    if spec.inputs:
        plain["inputs"] = spec.inputs
    if spec.outputs:
        plain["outputs"] = spec.outputs
    if spec.distributed:
        plain["distribution"] = {"type": "pytorch", "process_count_per_instance": spec.processes}
    if spec.job_tier:
        plain["queue_settings"] = {"job_tier": spec.job_tier}
    return plain


def as_yaml(spec: JobSpec, base: Path | None = None, name: str = "THIS") -> str:
    """Return a specification as a file for `az ml job create --file`, `name` in the folder `base`.

    Its first line is that command, because the file does not name the workspace.
    """
    command = f"az ml job create --file {name}{_of_workspace(spec.workspace)}"
    return f"# {command}\n{yaml.safe_dump(as_plain(spec, base), sort_keys=False, width=120)}"


def as_pipeline(spec: JobSpec, base: Path) -> str:
    """Return a job as the one step of a pipeline: Azure ML schedules nothing else.

    The pipeline has the job's tags, by which it is found.
    """
    step = as_plain(spec, base)
    job = {key: step.pop(key) for key in ("display_name", "experiment_name", "tags")}
    step.pop("$schema")
    plain = {"$schema": _PIPELINE_SCHEMA, "type": "pipeline", **job, "jobs": {SERVER: step}}
    return yaml.safe_dump(plain, sort_keys=False, width=120)


def as_schedule(spec: JobSpec, pipeline: str, name: str) -> str:
    """Return a file for `az ml schedule create --file`, which starts a pipeline's file every hour."""
    federation = re.sub(r"[^A-Za-z0-9-]", "-", spec.tags[TAG_FEDERATION])
    plain = {
        "$schema": _SCHEDULE_SCHEMA,
        "name": f"meadow-{federation}-server",
        "display_name": spec.display_name,
        "trigger": {"type": "recurrence", "frequency": "hour", "interval": 1},
        "create_job": f"./{pipeline}",
    }
    command = f"az ml schedule create --file {name}{_of_workspace(spec.workspace)}"
    return f"# {command}\n{yaml.safe_dump(plain, sort_keys=False, width=120)}"


def _of_workspace(workspace: WorkspaceConf) -> str:
    return (
        f" --subscription {workspace.subscription_id}"
        f" --resource-group {workspace.resource_group}"
        f" --workspace-name {workspace.name}"
    )


def _path(path: Path, base: Path | None) -> str:
    """Return a path as a file holds it: `./NAME` of what lies beside it."""
    if base is None:
        return str(path.absolute())
    return f"./{path.absolute().relative_to(base.absolute()).as_posix()}"


def _resources(spec: JobSpec) -> Plain:
    resources: Plain = {"instance_count": spec.instance_count, "shm_size": spec.shm_size}
    if spec.instance_type:
        resources["instance_type"] = spec.instance_type
    return resources


def unbound(spec: JobSpec) -> list[str]:
    """Return what the command binds and the job does not have; Azure ML's client does not check."""
    bound = set(_BINDING.findall(spec.command))
    inputs = {f"inputs.{name}" for name in spec.inputs}
    outputs = {f"outputs.{name}" for name in spec.outputs}
    return sorted(bound - inputs - outputs)


def _checked(spec: JobSpec) -> JobSpec:
    missing = unbound(spec)
    if missing:
        message = f"{spec.display_name}: no {missing[0]} for the command."
        raise AzureError("MDW-811", message, "Add it to the job.")
    return spec


def _silo(conf: Conf, name: str) -> SiloConf:
    silo = conf.federation.silos.get(name)
    if silo is None:
        names = ", ".join(sorted(conf.federation.silos)) or "none"
        message = f"The federation names no silo {name!r}."
        raise AzureError("MDW-810", message, f"Its silos: {names}.")
    return silo


def _needed(value: T | None, key: str) -> T:
    if value is None:
        hint = "Write it into the federation's file."
        raise AzureError("MDW-810", f"A job on Azure ML needs {key}.", hint)
    return value


def listen_address(orchestrator: OrchestratorConf) -> str:
    """Return where a job listens: at every address, unless its owner says otherwise."""
    if orchestrator.listen == OrchestratorConf.listen:
        return LISTEN
    return orchestrator.listen


def _host(orchestrator: OrchestratorConf) -> str:
    """Return the certificate's host: a gateway's, a declared one, or `auto`, the job's address."""
    if orchestrator.address:
        return orchestrator.address.rpartition(":")[0].strip("[]")
    is_default = orchestrator.host == OrchestratorConf.host
    if is_default and listen_address(orchestrator) == LISTEN:
        return "auto"
    return orchestrator.host


def _tags(federation: str, role: str, code: Code) -> dict[str, str]:
    return {
        TAG_FEDERATION: federation,
        TAG_ROLE: role,
        TAG_CODE: code.release,
        TAG_CONFIG: code.config_digest,
    }


def _variables(threads: int, code: Code, identity: str) -> dict[str, str]:
    own = {OUTSIDE: code.outside} if code.outside else {}
    return {
        **OFF,
        IDENTITY: identity,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
        **own,
    }


def _hydra_quoted(value: str) -> str:
    """Return a value as Hydra reads it back."""
    if _BARE.fullmatch(value):
        return value
    escaped = value.replace("'", r"\'")
    return f"'{escaped}'"
