"""Who takes part, and where: the silos and the orchestrator, each as its owner sets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conf.fields import (
    DOTTED,
    MOST_EXAMPLES,
    MOST_SILOS,
    MOST_THREADS,
    YEAR,
    device,
    entries,
    number,
    one_of,
    section,
    size,
    storage,
    text,
    value,
)
from conf.schema.lifetimes import RunLifetimes, SiloLifetimes
from conf.schema.policies import PolicyConf, TrainingProcessConf
from conf.schema.tasks import DataConf
from conf.schema.training import MachineConf

ENVIRONMENT = (
    r"azureml:[A-Za-z0-9][\w.-]{0,254}:[\w.-]{1,30}"
    r"|azureml://registries/[\w.-]{1,64}/environments/[\w.-]{1,255}/versions/[\w.-]{1,30}"
    r"|[a-z][a-z0-9-]{0,40}"
)
ENVIRONMENT_IN_WORDS = (
    "azureml:NAME:VERSION, azureml://registries/REGISTRY/environments/NAME/versions/VERSION, or one "
    "of Meadow's own images; a label such as @latest may mean another image tomorrow: write the "
    "version"
)
LONGEST_JOB = 21 * 86400
"""Seconds that Azure ML lets a job run at most (Microsoft's "Manage and increase quotas")."""


@dataclass
class WorkspaceConf:
    """An Azure ML workspace, by the three names that make its id."""

    subscription_id: str = text(
        "", r"[0-9a-fA-F-]{36}", "the id of a subscription", help="its subscription's id"
    )
    resource_group: str = text(
        "", r"[\w.()-]{1,90}", "the name of a resource group", help="its resource group"
    )
    name: str = text("", r"[A-Za-z0-9][\w-]{2,32}", "the name of a workspace", help="its name")


@dataclass
class InputConf:
    """A silo's data on Azure ML, given to its job; the task finds it as `data.root`."""

    type: str = one_of("uri_folder", "uri_file", help="what the path is")
    path: str = text(
        "",
        r"azureml:.+",
        "azureml://datastores/NAME/paths/PATH, or azureml:ASSET:VERSION",
        help="azureml://datastores/NAME/paths/PATH, or azureml:ASSET:VERSION",
    )
    mode: str = one_of("ro_mount", "download", help="how it comes to the job")


@dataclass
class OutboundConf:
    """How connections to a relay leave this side: whom they trust on the way, and by which proxy."""

    ca: str | None = text(
        None,
        r".{1,4096}",
        "a PEM file",
        help="PEM file of the CAs by which the relay, or a proxy that inspects, is trusted; null = "
        "this machine's own",
    )
    proxy: str | None = text(
        None,
        r"https?://[A-Za-z0-9.\[\]:-]{1,260}",
        "http://HOST:PORT",
        help="http://HOST:PORT of a proxy that opens connections (CONNECT); null = none",
    )
    proxy_user: str | None = text(
        None, r"[ -~]{1,200}", "a name in ASCII", help="whom the proxy knows; null = it asks nobody"
    )
    proxy_password: str | None = text(
        None,
        r"(env|file|vault):.{1,4096}",
        "env:NAME, file:PATH or vault:NAME",
        help="where its password is: env:VARIABLE, file:PATH or vault:SECRET; null = none",
    )
    no_proxy: list[str] = entries(
        list,
        pattern=r"\*|[A-Za-z0-9.:/\[\]-]{1,260}",
        wanted="a host, .example.org, a network, or *",
        help="hosts that are reached without the proxy, such as .example.org or 10.0.0.0/8",
    )


@dataclass
class RelayConf:
    """A place outside both networks at which orchestrator and silos meet; both dial it."""

    url: str | None = text(
        None,
        r"(https|http|sb)://[A-Za-z0-9.\[\]:-]{1,260}(/[A-Za-z0-9_./-]{0,260})?",
        "https://HOST, https://HOST:PORT/SERVER or sb://NAMESPACE/HYBRID_CONNECTION",
        help="https://HOST of a meadow relay, or sb://NAMESPACE/NAME of an Azure Hybrid Connection; "
        "null = silos dial the orchestrator itself",
    )


@dataclass
class SiloConf:
    """What a silo's owner sets, out of the run's reach.

    None and absent keys fall back to `data` and `trainer`.
    """

    data: dict[str, Any] = entries(
        dict, keys_of=DataConf, help="keys of data that are this silo's own"
    )
    device: str | None = device(None, help="where it trains; null = as the run says")
    threads: int | None = number(
        None, at_least=1, at_most=MOST_THREADS, help="threads of torch; null = as the run says"
    )
    batch_size_at_most: int | None = number(
        None,
        at_least=1,
        at_most=MOST_EXAMPLES,
        help="largest batch that its memory takes; null = any",
    )
    machine: MachineConf = section(MachineConf)
    policy: PolicyConf = section(PolicyConf, help="what its owner lets run; empty = all")
    training: TrainingProcessConf = section(TrainingProcessConf)
    outbound: OutboundConf = section(OutboundConf)
    state: str | None = storage(
        None,
        help="where what its algorithm remembers lasts; null = its job's folder, on Azure ML the "
        "blob store of its workspace",
    )
    lifetimes: SiloLifetimes = section(
        SiloLifetimes,
        help="for how many days what it keeps of a run stays; empty = until forgotten",
    )
    # ---- on Azure ML
    workspace: WorkspaceConf | None = value(None, help="its Azure ML workspace")
    compute: str | None = value(None, help="its compute in the workspace")
    environment: str | None = text(
        None,
        ENVIRONMENT,
        ENVIRONMENT_IN_WORDS,
        help="its job's image: azureml:NAME:VERSION, one that is there already; silo-cuda12, for an "
        "older driver; null = silo, built by its workspace",
    )
    instance_type: str | None = value(None, help="instance type of a Kubernetes compute (AKS, Arc)")
    job_tier: str | None = text(
        None,
        r"spot|basic|standard|premium",
        "spot, basic, standard or premium",
        help="tier of serverless machines: spot is cheap, and may be taken away at any time; "
        "null = as the compute is",
    )
    gpus: int = number(
        0, at_least=0, at_most=MOST_THREADS, help="GPUs of its job; more than one is refused"
    )
    nodes: int = number(
        1, at_least=1, at_most=MOST_THREADS, help="nodes of its job; more than one is refused"
    )
    restarted_by: str | None = text(
        None,
        r"[ -~]{1,100}",
        "a few words in ASCII, such as 'cron on ops-vm'",
        help="who starts its job again when it ends; null = nobody",
    )
    idle_timeout: float = number(
        7200.0,
        at_least=1,
        at_most=YEAR,
        help="seconds without a server or without work before its job ends: an idle GPU costs money",
    )
    shm_size: str | None = size(help="shared memory for loader workers; null = 2g")
    identity: str = one_of("managed", "user", help="as whom its job signs in")
    key_vault: str | None = value(
        None,
        help="the Key Vault that holds its private key: its name, or its host outside the public cloud",
    )
    input: InputConf | None = value(None, help="its data, given to its job")
    public_key: str | None = value(
        None, help="a .pub file, to be admitted by the orchestrator's owner"
    )
    admission: str | None = value(
        None,
        help="the file that meadow keys admit wrote, where the orchestrator has a fixed address",
    )


@dataclass
class OrchestratorConf:
    """Where the orchestrator listens, how silos reach it, and how long it waits for another run."""

    listen: str = value("127.0.0.1:0", help="host:port; port 0 = any free one")
    stock_listen: str | None = value(
        None,
        help="host:port of a second port, HTTPS, for Flower's own nodes (flower-supernode 1.40+); "
        "null = closed",
    )
    stock_grpc_listen: str | None = value(
        None,
        help="host:port of a port, gRPC, for Flower's own nodes of 1.39; null = closed",
    )
    relays: list[str] = entries(
        list,
        pattern=r"[0-9a-fA-F:.]+(/\d{1,3})?",
        wanted="an IP address or a network such as 10.1.0.0/16",
        help="addresses or networks (10.1.0.0/16) that carry many silos, such as a gateway's: "
        "their connections are ended last in a flood",
    )
    device: str = device(
        "auto", help="where it scores models, in fp32; auto = cuda, then mps, then cpu"
    )
    host: str = value(
        "127.0.0.1",
        help="IP address or DNS name that silos dial; the certificate is made for it; auto = the "
        "job's own",
    )
    idle_timeout: float = number(
        7200.0,
        at_least=0,
        at_most=YEAR,
        help="seconds without a run before it ends; 0 = with its queue",
    )
    outbound: OutboundConf = section(OutboundConf)
    queue_timeout: float = number(
        7200.0,
        at_least=0,
        at_most=YEAR,
        help="seconds in which a silo's job on Azure ML gets its machine and its image; "
        "run.start_timeout counts from when it runs",
    )
    targets: list[str] = entries(
        list,
        pattern=DOTTED,
        wanted="PACKAGE.MODULE.CLASS",
        help="classes, beside Flower's own, that a run's strategy.args may name; what else a run "
        "may have imported is what the server is launched with",
    )
    read_from: list[str] = entries(
        list,
        help="folders of the server's machine that a run may name (model.init, data.root), beside "
        "its own runs and what the server is launched with",
    )
    # ---- on Azure ML
    workspace: WorkspaceConf | None = value(None, help="its Azure ML workspace")
    compute: str | None = value(None, help="its compute in the workspace")
    instance_type: str | None = value(None, help="instance type of a Kubernetes compute (AKS, Arc)")
    restarted_by: str | None = text(
        None,
        r"[ -~]{1,100}",
        "a few words in ASCII, such as 'cron on ops-vm'",
        help="who starts its job again when it ends; null = nobody",
    )
    environment: str | None = text(
        None,
        ENVIRONMENT,
        ENVIRONMENT_IN_WORDS,
        help="its job's image: azureml:NAME:VERSION, one that is there already; null = orchestrator, "
        "built by its workspace",
    )
    standby: bool = value(
        False,
        help="end well at once where another orchestrator is live, or the federation was ended: for "
        "a schedule that starts it again and again",
    )
    datastore: str | None = value(
        None, help="the datastore whose container holds the store and the results"
    )
    key_vault: str | None = value(
        None, help="the Key Vault that holds the CA: its name, or its host outside the public cloud"
    )
    address: str | None = value(
        None,
        help="host:port of a gateway or private link; null = silos ask MLflow where the job is",
    )
    run_id: str | None = value(
        None,
        help="MLflow run (the job) that silos look at; null = the live one of this federation",
    )
    timeout: int = number(
        7 * 86400,
        at_least=60,
        at_most=LONGEST_JOB,
        help="seconds after which Azure ML ends a job, the silos' too; it allows 21 days at most",
    )
    store: str | None = value(
        None,
        help="address of the blob container; null = looked up from the datastore at launch",
    )
    rendezvous: str | None = value(
        None,
        help="address of a blob container in which silos see where the server is: a role at it is "
        "all that they need; null = they ask MLflow",
    )
    tracking: str | None = value(
        None, help="MLflow address of the workspace; null = looked up at launch"
    )
    ca: str | None = value(
        None, help="file of the CA's certificate, which silos trust; it is public"
    )
    lifetimes: RunLifetimes = section(RunLifetimes)


@dataclass
class FederationConf:
    """Who takes part: silos by name, or `size` generated ones (silo-1, ...) when none is named."""

    name: str = value("federation", help="the federation's name")
    size: int = number(
        3,
        at_least=1,
        at_most=MOST_SILOS,
        help="how many silos are generated (silo-1, ...) where none is named",
        also=("num_silos", "num_clients", "num_supernodes", "silos", "clients"),
    )
    silos: dict[str, SiloConf] = entries(
        dict, help="silos by name: federation.silos.NAME.KEY=VALUE"
    )
    file: str | None = value(
        None, help="a YAML file of this same shape, from outside the tree; null = none"
    )
    folder: str | None = value(
        None, help="of a local federation: keys, store, jobs; null = .meadow/<name>"
    )
    relay: RelayConf = section(RelayConf)
    poll_seconds: float = number(
        15.0,
        at_least=0.05,
        at_most=600,
        help="seconds between two questions to Azure about a job that is waited for; they grow to "
        "twice as many",
    )
    orchestrator: OrchestratorConf = section(OrchestratorConf)
