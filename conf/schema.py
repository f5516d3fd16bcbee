"""What a run is: the dataclasses that every YAML file, override and message is checked against.

Groups in `RUN_SCOPE` travel to the silos as plain values; everything else stays where it was
written. A field's limits stand beside it (`number`, `one_of`); `conf.validate` enforces them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def number(
    default: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Any:
    """A numeric field with its limits; None is allowed where the annotation allows it."""
    return field(
        default=default, metadata={"above": above, "at_least": at_least, "at_most": at_most}
    )


def one_of(default: str, *others: str) -> Any:
    """A string field that takes one of the listed values; the first is the default."""
    return field(default=default, metadata={"one_of": (default, *others)})


def text(default: str | None, pattern: str, wanted: str) -> Any:
    """A text field that matches `pattern` as a whole; `wanted` says in words what that is."""
    return field(default=default, metadata={"pattern": pattern, "wanted": wanted})


_NAME = r"[A-Za-z_]\w*"
_DOTTED = rf"{_NAME}(\.{_NAME})+"
_FILE = r"[a-z][a-z0-9_]{0,63}"
_SHA256 = r"[0-9a-f]{64}"
_FILE_IN_WORDS = "small letters, digits and '_'"


def name_of_a_file(default: str) -> Any:
    """A text field that names a Python file of one of our rooms, such as a task's."""
    return text(default, _FILE, _FILE_IN_WORDS)


def device(default: str | None) -> Any:
    """A text field that names a device as torch does; whether it is there shows where it trains."""
    return text(default, r"auto|cpu|mps|cuda(:[0-9]+)?", "auto, cpu, mps, cuda or cuda:N")


@dataclass
class EarlyStopConf:
    """Stop when `metric` has not improved by `min_delta` for `patience` rounds; None = never."""

    metric: str = "loss"
    mode: str = one_of("min", "max")
    patience: int | None = number(None, at_least=1)
    min_delta: float = number(0.0, at_least=0)


@dataclass
class RunConf:
    """How long a run lasts, when its rounds close, and what it leaves behind. Times in seconds."""

    rounds: int = number(5, at_least=1)
    seed: int = number(0, at_least=0, at_most=2**31 - 1)
    # silos asked each round; None = all of them
    cohort: int | None = number(None, at_least=1)
    # admitted updates that may close a round; None = more than half
    quorum: int | None = number(None, at_least=1)
    # silos that must be connected before round 1; None = all of them
    start_quorum: int | None = number(None, at_least=1)
    start_timeout: float = number(600.0, above=0)
    round_timeout: float = number(3600.0, above=0)
    reconnect_patience: float = number(300.0, at_least=0)
    # close this long after the quorum; None = wait for all
    grace: float | None = number(None, at_least=0)
    baseline: str = one_of("none", "silos", "pooled", "all")
    early_stop: EarlyStopConf = field(default_factory=EarlyStopConf)
    # a run_id, or the path of a run's folder
    resume: str | None = None
    # the run's id; None = made from the date, the task and the strategy
    name: str | None = text(
        None,
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}",
        "ASCII letters, digits, '.', '-' and '_': it is a folder",
    )
    output: str = text("outputs", r"(?s).*\S.*", "the path of a folder")


@dataclass
class TaskConf:
    """The task by its registered name: `client/tasks/<name>.py`."""

    name: str = name_of_a_file("digits")


@dataclass
class DataConf:
    """Where a silo's examples come from and how a public set is partitioned among silos."""

    # folder of the data; None = the task's own default
    root: str | None = None
    # own = all of the silo's own root
    partition: str = one_of("dirichlet", "iid", "labels", "quantity", "own")
    # concentration of the Dirichlet partition (of labels), or of the sizes (quantity)
    alpha: float = number(0.5, above=0)
    labels_per_silo: int = number(2, at_least=1)
    # share of each silo's examples kept for evaluation
    held_out: float = number(0.2, at_least=0, at_most=0.9)
    # use only this many of the set, from its start; None = all
    examples: int | None = number(None, at_least=1)
    seed: int = number(0, at_least=0)
    download: bool = True


@dataclass
class ModelConf:
    """A model by its registered name, and where its first weights come from."""

    name: str = "cnn"
    # a .safetensors file or a run_id; None = seeded by run.seed
    init: str | None = None


@dataclass
class MlpConf(ModelConf):
    """A multilayer perceptron."""

    name: str = "mlp"
    # units of each hidden layer
    hidden: list[int] = field(default_factory=lambda: [64], metadata={"at_least": 1})


@dataclass
class ResNetConf(ModelConf):
    """ResNet-18 with its normalisation: batch (buffers travel) or group (none to travel)."""

    name: str = "resnet18"
    norm: str = one_of("batch", "group")


@dataclass
class TrainerConf:
    """The local training of one round."""

    epochs: int = number(1, at_least=1)
    batch_size: int = number(32, at_least=1)
    eval_batch_size: int = number(512, at_least=1)
    optimizer: str = one_of("sgd", "adam", "adamw")
    lr: float = number(0.05, above=0)
    momentum: float = number(0.9, at_least=0, at_most=1)
    weight_decay: float = number(0.0, at_least=0)
    # over the whole run, continued from round to round
    schedule: str = one_of("constant", "cosine", "step")
    # step: factor after each step
    schedule_gamma: float = number(0.5, above=0, at_most=1)
    # step: how many equal parts the run has
    schedule_steps: int = number(3, at_least=1)
    clip_norm: float | None = number(None, above=0)
    # batches per optimizer step
    accumulate: int = number(1, at_least=1)
    precision: str = one_of("fp32", "bf16", "fp16")
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = True
    # auto = cuda, then mps, then cpu
    device: str = device("auto")
    threads: int = number(1, at_least=1)
    # only for data that is not kept in memory
    loader_workers: int = number(0, at_least=0)
    # when it fits in a quarter of the free memory of the GPU
    keep_on_device: bool = True


@dataclass
class StrategyConf:
    """How updates become a model: `strategies/<name>.py`."""

    name: str = "fedavg"


@dataclass
class FedProxConf(StrategyConf):
    """FedAvg with mu/2 ||w - w_t||^2 added to the silo's loss.

    Li et al. 2020, arXiv 1812.06127, eq. 2.
    """

    name: str = "fedprox"
    mu: float = number(0.01, at_least=0)


@dataclass
class ExternalStrategyConf(StrategyConf):
    """Any Flower `Strategy`, by its import path; `args` are checked against its constructor."""

    name: str = "external"
    target: str = text(
        "", rf"({_DOTTED}|\S.*\.py:{_NAME})?", "the import path of a class, or FILE.py:Class"
    )
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class PrivacyConf:
    """What noise and clipping a run asks of its silos."""

    name: str = one_of("none")


@dataclass
class CompressionConf:
    """How an update is made smaller before it travels."""

    name: str = one_of("none")


@dataclass
class WorkspaceConf:
    """An Azure ML workspace, by the three names that make its id."""

    subscription_id: str = text("", r"[0-9a-fA-F-]{36}", "the id of a subscription")
    resource_group: str = text("", r"[\w.()-]{1,90}", "the name of a resource group")
    name: str = text("", r"[A-Za-z0-9][\w-]{2,32}", "the name of a workspace")


@dataclass
class InputConf:
    """A silo's data on Azure ML, given to its job; the task finds it as `data.root`."""

    type: str = one_of("uri_folder", "uri_file")
    path: str = text(
        "", r"azureml:.+", "azureml://datastores/NAME/paths/PATH, or azureml:ASSET:VERSION"
    )
    mode: str = one_of("ro_mount", "download")


@dataclass
class PolicyConf:
    """What a silo's owner lets run on the silo's data; empty and None allow all.

    Checked at the silo (`client/policy.py`). It holds a run to what the run says of itself;
    what becomes of an update at the server can't be seen from a silo.
    """

    tasks: list[str] = field(
        default_factory=list, metadata={"pattern": _FILE, "wanted": _FILE_IN_WORDS}
    )
    # names of these groups of VARIANTS
    models: list[str] = field(default_factory=list, metadata={"group": "model"})
    strategies: list[str] = field(default_factory=list, metadata={"group": "strategy"})
    # of a round
    epochs_at_most: int | None = number(None, at_least=1)
    # of a run
    rounds_at_most: int | None = number(None, at_least=1)
    # to train on; with fewer the silo takes no part
    examples_at_least: int | None = number(None, at_least=1)
    # SHA-256 of releases whose runs are taken part in beside the silo's own (`meadow version`)
    code: list[str] = field(
        default_factory=list, metadata={"pattern": _SHA256, "wanted": "a SHA-256 in hex"}
    )


@dataclass
class SiloConf:
    """What a silo's owner sets, out of the run's reach.

    None and absent keys fall back to `data` and `trainer`.
    """

    data: dict[str, Any] = field(default_factory=dict, metadata={"keys_of": DataConf})
    device: str | None = device(None)
    threads: int | None = number(None, at_least=1)
    # what its memory takes
    batch_size_at_most: int | None = number(None, at_least=1)
    policy: PolicyConf = field(default_factory=PolicyConf)
    # ---- on Azure ML
    workspace: WorkspaceConf | None = None
    compute: str | None = None
    # of a Kubernetes compute (AKS, Arc)
    instance_type: str | None = None
    # on each node; more than one: a process each
    gpus: int = number(0, at_least=0)
    nodes: int = number(1, at_least=1)
    # shared memory for loader workers; None = 2g
    shm_size: str | None = text(None, r"[1-9]\d*[kmg]", "a size such as 8g")
    identity: str = one_of("managed", "user")
    # holds the silo's private key
    key_vault: str | None = None
    input: InputConf | None = None
    # a .pub file, to be admitted by the orchestrator's owner
    public_key: str | None = None


@dataclass
class OrchestratorConf:
    """Where the orchestrator listens, how silos reach it, and how long it waits for another run."""

    # host:port; port 0 = any free one
    listen: str = "127.0.0.1:0"
    # host:port of a second port, HTTPS, for Flower's own nodes (flower-supernode 1.40+); None =
    # closed
    stock_listen: str | None = None
    # IP address or DNS name that silos dial; the certificate is made for it; auto = the job's own
    host: str = "127.0.0.1"
    # seconds without a run before it ends; 0 = with its queue
    idle_timeout: float = number(1800.0, at_least=0)
    # ---- on Azure ML
    workspace: WorkspaceConf | None = None
    compute: str | None = None
    # its container holds the store and the results
    datastore: str | None = None
    # holds the CA
    key_vault: str | None = None
    # host:port of a gateway or private link; None = silos ask MLflow where the job is
    address: str | None = None
    # MLflow run (the job) that silos look at; None = the live one of this federation
    run_id: str | None = None
    # seconds after which Azure ML ends a job, the silos' too
    timeout: int = number(7 * 86400, at_least=60)
    # address of the blob container; None = looked up from the datastore at launch
    store: str | None = None
    # MLflow address of the workspace; None = looked up at launch
    tracking: str | None = None
    # file of the CA's certificate, which silos trust; it is public
    ca: str | None = None


@dataclass
class FederationConf:
    """Who takes part: silos by name, or `size` generated ones (silo-1, ...) when none is named."""

    name: str = "federation"
    size: int = number(3, at_least=1)
    silos: dict[str, SiloConf] = field(default_factory=dict)
    # a YAML file of this same shape, from outside the tree
    file: str | None = None
    # of a local federation: keys, store, jobs; None = .meadow/<name>
    folder: str | None = None
    orchestrator: OrchestratorConf = field(default_factory=OrchestratorConf)


@dataclass
class SimulationConf:
    """What runs the silos on one machine: Meadow's pool of workers, or Flower's own engine on Ray."""

    engine: str = one_of("pool", "ray")
    # None = one a core; pool: 0 = in this process
    workers: int | None = number(None, at_least=0)
    # an existing Ray cluster; None = a private one
    ray_address: str | None = None
    # use such a cluster also where it asks nobody for a token: whoever reaches it can run code
    # there
    ray_insecure: bool = False
    # glibc thresholds that keep activations mapped (docs/benchmarks.md)
    malloc: bool = True


@dataclass
class TrackingConf:
    """Where metrics go beside the run's own folder."""

    mlflow: str = one_of("off", "local", "environment")
    # in a job of Azure ML, the job's own
    experiment: str = "meadow"
    # the finished run's model becomes a version in MLflow's model registry
    register: bool = False
    # under this name; None = <federation.name>-<task.name>
    model: str | None = text(
        None, r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", "ASCII letters, digits, '.', '-' and '_'"
    )


@dataclass
class Conf:
    """The whole configuration of a run."""

    run: RunConf = field(default_factory=RunConf)
    task: TaskConf = field(default_factory=TaskConf)
    data: DataConf = field(default_factory=DataConf)
    model: ModelConf = field(default_factory=ModelConf)
    trainer: TrainerConf = field(default_factory=TrainerConf)
    strategy: StrategyConf = field(default_factory=StrategyConf)
    privacy: PrivacyConf = field(default_factory=PrivacyConf)
    compression: CompressionConf = field(default_factory=CompressionConf)
    federation: FederationConf = field(default_factory=FederationConf)
    simulation: SimulationConf = field(default_factory=SimulationConf)
    tracking: TrackingConf = field(default_factory=TrackingConf)


RUN_SCOPE = ("run", "task", "model", "trainer", "strategy", "privacy", "compression")
"""The groups that travel to a silo."""

VARIANTS: dict[str, dict[str, type[Any]]] = {
    "model": {"cnn": ModelConf, "mlp": MlpConf, "resnet18": ResNetConf},
    "strategy": {"fedavg": StrategyConf, "fedprox": FedProxConf, "external": ExternalStrategyConf},
}
"""Groups whose keys depend on the chosen name."""


@dataclass
class RunScope:
    """The part of a configuration that travels, as a silo reads it from a message."""

    run: RunConf
    task: TaskConf
    model: ModelConf
    trainer: TrainerConf
    strategy: StrategyConf
    privacy: PrivacyConf
    compression: CompressionConf


@dataclass
class Silo:
    """One silo as its own process sees it: its name, its index among `of` silos, its settings."""

    name: str
    index: int = 0
    of: int = 1
    data: DataConf = field(default_factory=DataConf)
    device: str | None = device(None)
    threads: int | None = None
    batch_size_at_most: int | None = number(None, at_least=1)
    policy: PolicyConf = field(default_factory=PolicyConf)
