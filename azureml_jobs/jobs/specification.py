"""From a configuration to job specifications, as plain values: what Azure ML is asked for, before anybody is asked.

`server_job` and `silo_job` are pure. `as_yaml` writes a specification as `az ml job create -f` takes it;
`azureml_jobs.backends.workspace` sends the same specification through the SDK.

    MDW-810 the federation does not say what a job needs    MDW-811 a command binds what the job does not have
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

from conf.errors import AzureError
from conf.schema import Conf, OrchestratorConf, SiloConf, WorkspaceConf
from conf.telemetry import OFF

Plain = dict[str, Any]
T = TypeVar("T")

SERVER, SILO = "server", "silo"
LISTEN: Final = "0.0.0.0:9092"
"""Of an orchestrator on Azure, unless its owner says otherwise."""
FEDERATION_FILE, SILO_FILE, CA_FILE = "federation.yaml", "silo.json", "ca.pem"
"""Beside the code in a job's snapshot: the public federation file; one silo's settings and the CA's certificate."""
SHM: Final = "2g"
ENVIRONMENTS: Final = Path(__file__).parents[1] / "environments"
TAG_FEDERATION, TAG_ROLE, TAG_SILO = "meadow_federation", "meadow_role", "meadow_silo"
TAG_CODE, TAG_CONFIG = "meadow_code", "meadow_config"
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
    environment: Path  # the folder of a Docker context
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

    @property
    def distributed(self) -> bool:
        """Return whether several processes share the work."""
        return self.processes > 1 or self.instance_count > 1


@dataclass(frozen=True)
class Code:
    """The snapshot that a job is sent with, and the digests that its tags tell."""

    folder: Path
    app_hash: str
    config_digest: str


def server_job(conf: Conf, code: Code, store: str) -> JobSpec:
    """Return the orchestrator's job; `store` is the address of its container. Raises AzureError MDW-810."""
    own, name = conf.federation.orchestrator, conf.federation.name
    where = "federation.orchestrator"
    workspace, compute = (
        _needed(own.workspace, f"{where}.workspace"),
        _needed(own.compute, f"{where}.compute"),
    )
    datastore, vault = (
        _needed(own.datastore, f"{where}.datastore"),
        _needed(own.key_vault, f"{where}.key_vault"),
    )
    given = {
        "federation.file": FEDERATION_FILE,
        "federation.orchestrator.listen": listen_address(own),
        "federation.orchestrator.host": _host(own),
        "federation.orchestrator.store": store,
        "federation.orchestrator.key_vault": vault,
        "federation.orchestrator.idle_timeout": str(own.idle_timeout),
    }
    overrides = " ".join(shlex.quote(f"{key}={_quoted(value)}") for key, value in given.items())
    line = (
        f"python -m azureml_jobs.cli.main serve {overrides} \"run.output='${{{{outputs.runs}}}}'\""
    )
    runs = f"azureml://datastores/{datastore}/paths/{name}/outputs/${{{{name}}}}/"
    spec = JobSpec(
        workspace=workspace,
        display_name=f"{name}: orchestrator",
        experiment=conf.tracking.experiment,
        command=line,
        code=code.folder,
        environment=ENVIRONMENTS / "orchestrator",
        compute=compute,
        timeout=own.timeout,
        tags=_tags(name, SERVER, code),
        outputs={"runs": {"type": "uri_folder", "path": runs, "mode": "upload"}},
        variables=_variables(1),
    )
    return _checked(spec)


def silo_job(conf: Conf, silo: str, code: Code, tracking: str) -> JobSpec:
    """Return one silo's job; `tracking` is where the orchestrator says where it is. Raises AzureError MDW-810."""
    name, own = conf.federation.name, _silo(conf, silo)
    where = f"federation.silos.{silo}"
    workspace, compute = (
        _needed(own.workspace, f"{where}.workspace"),
        _needed(own.compute, f"{where}.compute"),
    )
    vault = _needed(own.key_vault, f"{where}.key_vault")
    arguments = [
        "--silo-file",
        SILO_FILE,
        "--ca",
        CA_FILE,
        "--key-vault",
        vault,
        "--state",
        "state",
    ]
    if conf.federation.orchestrator.address:
        arguments += ["--server", conf.federation.orchestrator.address]
    else:
        arguments += [
            "--tracking",
            tracking,
            "--experiment",
            conf.tracking.experiment,
            "--federation",
            name,
        ]
        if conf.federation.orchestrator.run_id:
            arguments += ["--run-id", conf.federation.orchestrator.run_id]
    line = f"python -m azureml_jobs.cli.main join {shlex.join(arguments)}"
    inputs = {}
    if own.input is not None:
        inputs["data"] = {"type": own.input.type, "path": own.input.path, "mode": own.input.mode}
        line += " --data ${{inputs.data}}"
    spec = JobSpec(
        workspace=workspace,
        display_name=f"{name}: {silo}",
        experiment=conf.tracking.experiment,
        command=line,
        code=code.folder,
        environment=ENVIRONMENTS / "silo",
        compute=compute,
        timeout=conf.federation.orchestrator.timeout,
        tags=_tags(name, SILO, code) | {TAG_SILO: silo},
        inputs=inputs,
        variables=_variables(own.threads or conf.trainer.threads),
        identity="managed" if own.identity == "managed" else "user_identity",
        instance_count=own.nodes,
        instance_type=own.instance_type,
        shm_size=own.shm_size or SHM,
        processes=max(1, own.gpus),
    )
    return _checked(spec)


def as_plain(spec: JobSpec) -> Plain:
    """Return a specification in the keys of Azure ML's command job schema."""
    resources: Plain = {"instance_count": spec.instance_count, "shm_size": spec.shm_size}
    if spec.instance_type:
        resources["instance_type"] = spec.instance_type
    plain: Plain = {
        "$schema": _SCHEMA,
        "type": "command",
        "display_name": spec.display_name,
        "experiment_name": spec.experiment,
        "command": spec.command,
        "code": str(spec.code.absolute()),
        "environment": {"build": {"path": str(spec.environment.absolute())}},
        "compute": f"azureml:{spec.compute}",
        "identity": {"type": spec.identity},
        "environment_variables": spec.variables,
        "resources": resources,
        "limits": {"timeout": spec.timeout},
        "tags": spec.tags,
    }
    if spec.inputs:
        plain["inputs"] = spec.inputs
    if spec.outputs:
        plain["outputs"] = spec.outputs
    if spec.distributed:
        plain["distribution"] = {"type": "pytorch", "process_count_per_instance": spec.processes}
    return plain


def as_yaml(spec: JobSpec) -> str:
    """Return a specification as a file for `az ml job create --file`, which wants the workspace named beside it."""
    w = spec.workspace
    asked = f"--subscription {w.subscription_id} --resource-group {w.resource_group} --workspace-name {w.name}"
    return f"# az ml job create --file THIS {asked}\n{yaml.safe_dump(as_plain(spec), sort_keys=False, width=120)}"


def unbound(spec: JobSpec) -> list[str]:
    """Return what the command binds and the job does not have; Azure ML's client does not look at it."""
    has = {f"inputs.{name}" for name in spec.inputs} | {f"outputs.{name}" for name in spec.outputs}
    return sorted(set(_BINDING.findall(spec.command)) - has)


def _checked(spec: JobSpec) -> JobSpec:
    if missing := unbound(spec):
        raise AzureError(
            "MDW-811",
            f"{spec.display_name}: no {missing[0]} for the command.",
            "Add it to the job.",
        )
    return spec


def _silo(conf: Conf, silo: str) -> SiloConf:
    own = conf.federation.silos.get(silo)
    if own is None:
        there = ", ".join(sorted(conf.federation.silos)) or "none"
        raise AzureError(
            "MDW-810", f"The federation names no silo {silo!r}.", f"Its silos: {there}."
        )
    return own


def _needed(value: T | None, key: str) -> T:
    if value is None:
        raise AzureError(
            "MDW-810", f"A job on Azure ML needs {key}.", "Write it into the federation's file."
        )
    return value


def listen_address(own: OrchestratorConf) -> str:
    """Return where a job listens: at every address, unless its owner says otherwise."""
    return LISTEN if own.listen == OrchestratorConf.listen else own.listen


def _host(own: OrchestratorConf) -> str:
    """Return the host that the certificate is for: a gateway's, a declared one, or the job's own address."""
    if own.address:
        return own.address.rpartition(":")[0].strip("[]")
    return (
        "auto" if own.host == OrchestratorConf.host and listen_address(own) == LISTEN else own.host
    )


def _tags(federation: str, role: str, code: Code) -> dict[str, str]:
    return {
        TAG_FEDERATION: federation, TAG_ROLE: role, TAG_CODE: code.app_hash, TAG_CONFIG: code.config_digest,
    }  # fmt: skip


def _variables(threads: int) -> dict[str, str]:
    return {**OFF, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}


def _quoted(value: str) -> str:
    """Return a value as Hydra reads it back."""
    return value if _BARE.fullmatch(value) else "'" + value.replace("'", r"\'") + "'"
