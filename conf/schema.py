"""What a run is: the dataclasses that every YAML file, override and message is checked against.

Groups in `RUN_SCOPE` travel to the silos as plain values; everything else stays where it was
written. A field has its limits and its text beside it (`conf.fields`); `conf.validate` enforces the
limits, and help, docs/configuration.md and errors show the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from conf.fields import (
    NAMED,
    NAMED_IN_WORDS,
    OUTSIDE,
    SHA256,
    code,
    device,
    entries,
    name_of_a_file,
    number,
    one_of,
    section,
    storage,
    target,
    text,
    value,
)


@dataclass
class EarlyStopConf:
    """Stop when `metric` has not improved by `min_delta` for `patience` rounds."""

    metric: str | None = value(
        None,
        help="the validation metric that chooses, also for run.keep=best; null = the first that the "
        "task shows",
        also=("monitor",),
    )
    mode: str = one_of(
        "auto",
        "min",
        "max",
        help="whether less or more of the metric is better; auto = what the task says",
    )
    patience: int | None = number(
        None, at_least=1, help="rounds without an improvement before the run ends; null = never"
    )
    min_delta: float = number(
        0.0, at_least=0, help="what the metric must change by to count as improved"
    )


@dataclass
class RunConf:
    """How long a run lasts, when its rounds close, and what it leaves behind. Times in seconds."""

    rounds: int = number(
        5, at_least=1, help="rounds of the run", also=("num_rounds", "num_server_rounds")
    )
    seed: int = number(
        0,
        at_least=0,
        at_most=2**31 - 1,
        help="seed of all that is random: first weights, shuffling, who is asked",
        also=("random_state", "manual_seed"),
    )
    cohort: int | None = number(
        None,
        at_least=1,
        help="silos asked in each round; null = all",
        also=("clients_per_round", "cohort_size", "fraction_train", "fraction_fit"),
    )
    quorum: int | None = number(
        None,
        at_least=1,
        help="admitted updates that may close a round; null = more than half of the cohort",
        also=("min_train_nodes", "min_fit_clients"),
    )
    start_quorum: int | None = number(
        None,
        at_least=1,
        help="silos that must be connected before round 1; null = all",
        also=("min_available_nodes", "min_available_clients"),
    )
    start_timeout: float = number(
        600.0, above=0, help="seconds in which the silos of start_quorum must have connected"
    )
    round_timeout: float = number(
        3600.0, above=0, help="seconds after which a round closes if the quorum is there"
    )
    reconnect_patience: float = number(
        300.0, at_least=0, help="seconds to wait for silos to come back where the quorum is lacking"
    )
    grace: float | None = number(
        None,
        at_least=0,
        help="seconds after the quorum at which a round closes; null = wait for all",
    )
    baseline: str = one_of(
        "none",
        "silos",
        "pooled",
        "all",
        help="also train for comparison: each silo alone, one model on all data, or both",
    )
    early_stop: EarlyStopConf = section(EarlyStopConf)
    keep: str = one_of(
        "last",
        "best",
        help="the model that the run ends with: that of its last round, or of its best by validation",
        also=("checkpoint", "restore_best"),
    )
    test: str = one_of(
        "end",
        "rounds",
        help="when the task's own test set is scored: once at the end, or after each round too, for "
        "a curve that chooses nothing",
    )
    resume: str | None = value(
        None, help="resume this run: its id, or the path of its folder; null = a new run"
    )
    name: str | None = text(
        None,
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}",
        "ASCII letters, digits, '.', '-' and '_': it is a folder",
        help="the run's id; null = made of the date, the task and the strategy",
        also=("run_id", "run_name"),
    )
    output: str = text(
        "outputs",
        r"(?s).*\S.*",
        "the path of a folder",
        help="the folder in which each run gets a folder of its own",
        also=("output_dir",),
    )


@dataclass
class TaskConf:
    """The task: `client/tasks/<name>.py`, or a class from outside this tree by its `target`."""

    name: str = name_of_a_file("digits", help="the task: data, loss and metrics")
    target: str = target(
        help="a task of your own: where its class is; empty = the one of that name"
    )
    args: dict[str, Any] = entries(
        dict, help="arguments of the task: task.args.NAME=VALUE", also=("init_args", "kwargs")
    )
    code: str = code(help="digest of a task's code from outside this tree; filled in")


@dataclass
class DataConf:
    """Where a silo's examples come from and how a public set is partitioned among silos."""

    root: str | None = value(
        None, help="folder of the data; null = the task's own default", also=("data_dir", "path")
    )
    partition: str = one_of(
        "dirichlet",
        "iid",
        "labels",
        "quantity",
        "own",
        help="how a public set is divided among silos; own = each silo has all of its own root",
        also=("partitioner", "split"),
    )
    alpha: float = number(
        0.5,
        above=0,
        help="concentration of the Dirichlet partition, of labels or of sizes (quantity); less is "
        "more uneven",
        also=("concentration",),
    )
    labels_per_silo: int = number(
        2, at_least=1, help="classes that a silo has (labels)", also=("num_classes_per_partition",)
    )
    validation: float = number(
        0.1,
        at_least=0,
        at_most=0.9,
        help="share of each silo's examples that choose: when to stop, which round's model to keep",
        also=("val_size", "val_fraction", "dev"),
    )
    test: float = number(
        0.1,
        at_least=0,
        at_most=0.9,
        help="share of each silo's examples that say at the end what the model is worth",
        also=("test_size", "test_fraction"),
    )
    group: str | None = text(
        None,
        r"(?s).*\S.*",
        "a column's name or a pattern",
        help="column, or pattern for file names: examples that share it stay in one split; null = "
        "each by itself",
        also=("group_by", "groups", "patient"),
    )
    examples: int | None = number(
        None,
        at_least=1,
        help="use only this many examples of the set, from its start; null = all",
        also=("max_samples", "limit", "samples"),
    )
    seed: int = number(0, at_least=0, help="seed of the partition")
    download: bool = value(True, help="fetch a public set that is not there yet")


@dataclass
class ModelConf:
    """A model by its registered name, and where its first weights come from."""

    name: str = value("cnn", help="the model")
    init: str | None = value(
        None,
        help="first weights: a .safetensors file or a finished run's id; null = seeded by run.seed",
        also=("pretrained", "checkpoint", "weights"),
    )


@dataclass
class MlpConf(ModelConf):
    """A multilayer perceptron."""

    name: str = value("mlp", help="the model")
    hidden: list[int] = entries(
        lambda: [64],
        at_least=1,
        help="units of each hidden layer, such as [64,32]",
        also=("hidden_sizes", "hidden_dim", "hidden_layer_sizes"),
    )


@dataclass
class ResNetConf(ModelConf):
    """ResNet-18 with its normalisation: batch (buffers travel) or group (none to travel)."""

    name: str = value("resnet18", help="the model")
    norm: str = one_of(
        "batch", "group", help="normalisation: batch (its buffers travel) or group (it has none)"
    )


@dataclass
class TaskModelConf(ModelConf):
    """The model that the task brings itself."""

    name: str = value("task", help="the model")


@dataclass
class ExternalModelConf(ModelConf):
    """A model from outside this tree: a class or function that is called with `args`."""

    name: str = value("external", help="the model")
    target: str = target(help="a model of your own: where its class or function is")
    args: dict[str, Any] = entries(
        dict, help="arguments of the model: model.args.NAME=VALUE", also=("init_args", "kwargs")
    )
    code: str = code(help="digest of the model's code; filled in")


@dataclass
class TrainerConf:
    """The local training of one round."""

    epochs: int = number(
        1, at_least=1, help="epochs that a silo trains in a round", also=("local_epochs",)
    )
    batch_size: int = number(
        32, at_least=1, help="examples in a batch of training", also=("train_batch_size", "batch")
    )
    eval_batch_size: int = number(512, at_least=1, help="examples in a batch of evaluation")
    optimizer: str = one_of("sgd", "adam", "adamw", help="the optimizer at a silo", also=("optim",))
    lr: float = number(
        0.05, above=0, help="learning rate at a silo", also=("learning_rate", "eta", "client_lr")
    )
    momentum: float = number(0.9, at_least=0, at_most=1, help="momentum (sgd)")
    weight_decay: float = number(
        0.0, at_least=0, help="weight decay", also=("decay", "l2", "weight_penalty")
    )
    schedule: str = one_of(
        "constant",
        "cosine",
        "step",
        help="learning rate over the whole run, continued from round to round",
        also=("lr_scheduler", "scheduler"),
    )
    schedule_gamma: float = number(
        0.5, above=0, at_most=1, help="factor after each step (step)", also=("gamma",)
    )
    schedule_steps: int = number(
        3, at_least=1, help="equal parts of the run, with a step between two (step)"
    )
    clip_norm: float | None = number(
        None,
        above=0,
        help="largest norm of a gradient; null = not clipped",
        also=("max_grad_norm", "grad_clip", "gradient_clip_val"),
    )
    accumulate: int = number(
        1,
        at_least=1,
        help="batches for one optimizer step",
        also=("gradient_accumulation_steps", "accumulate_grad_batches"),
    )
    precision: str = one_of(
        "fp32", "bf16", "fp16", help="number format of the training", also=("dtype", "amp")
    )
    channels_last: bool = value(False, help="keep images in memory as channels_last")
    compile: bool = value(False, help="compile the model with torch.compile")
    deterministic: bool = value(True, help="only algorithms of torch that give the same bits")
    device: str = device("auto", help="where a silo trains; auto = cuda, then mps, then cpu")
    threads: int = number(
        1,
        at_least=1,
        help="threads of torch; another number gives other bits",
        also=("num_threads",),
    )
    loader_workers: int = number(
        0,
        at_least=0,
        help="processes that load data which is not kept in memory; 0 = none",
        also=("num_workers", "dataloader_num_workers"),
    )
    keep_on_device: bool = value(
        True, help="keep the data on the GPU where it fits in a quarter of its free memory"
    )


@dataclass
class StrategyConf:
    """How updates become a model: `strategies/<name>.py`."""

    name: str = value("fedavg", help="the strategy")
    weighting: str = one_of(
        "examples",
        "size",
        "equal",
        help="what a silo's update weighs in the mean: its examples, what the task's size counts "
        "(tokens, pixels), or each the same",
        also=("weighted_by", "weighted_by_key"),
    )


@dataclass
class FedProxConf(StrategyConf):
    """FedAvg with mu/2 ||w - w_t||^2 added to the silo's loss.

    Li et al. 2020, arXiv 1812.06127, eq. 2.
    """

    name: str = value("fedprox", help="the strategy")
    mu: float = number(
        0.01, at_least=0, help="weight of the proximal term", also=("proximal_mu", "prox_mu")
    )


@dataclass
class ScaffoldConf(StrategyConf):
    """Silos corrected by control variates (Karimireddy et al. 2020, arXiv 1910.06378)."""

    name: str = value("scaffold", help="the strategy")
    weighting: str = one_of(
        "equal",
        "examples",
        "size",
        help="what a silo's update weighs: each the same, as in the paper",
    )
    server_lr: float = number(
        1.0, above=0, help="step of the server towards the mean", also=("eta_g", "global_lr")
    )


@dataclass
class ExternalStrategyConf(StrategyConf):
    """Any Flower `Strategy` by its `target`; `args` are checked against its constructor."""

    name: str = value("external", help="the strategy")
    weighting: str = one_of(
        "examples",
        "size",
        "equal",
        help="what a silo's update weighs; size only of a class derived from Algorithm",
    )
    target: str = target(help="a strategy of your own or of Flower: where its class is")
    args: dict[str, Any] = entries(
        dict,
        help="arguments of its constructor: strategy.args.NAME=VALUE",
        also=("init_args", "kwargs"),
    )
    code: str = code(help="digest of the strategy's code; filled in")


@dataclass
class PrivacyConf:
    """What noise and clipping a run asks of its silos."""

    name: str = one_of("none", help="the kind of privacy")


@dataclass
class CompressionConf:
    """How an update is made smaller before it travels."""

    name: str = one_of("none", help="the kind of compression")


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
class PolicyConf:
    """What a silo's owner lets run on the silo's data; empty and None allow all.

    Checked at the silo (`client/policy.py`). It holds a run to what the run says of itself;
    what becomes of an update at the server can't be seen from a silo.
    """

    tasks: list[str] = entries(
        list, pattern=NAMED, wanted=NAMED_IN_WORDS, help="tasks that may run; empty = any"
    )
    models: list[str] = entries(list, group="model", help="models that may train; empty = any")
    strategies: list[str] = entries(
        list, group="strategy", help="strategies that may be used; empty = any"
    )
    epochs_at_most: int | None = number(
        None, at_least=1, help="epochs of a round; null = any number"
    )
    rounds_at_most: int | None = number(None, at_least=1, help="rounds of a run; null = any number")
    examples_at_least: int | None = number(
        None,
        at_least=1,
        help="examples to train on, with fewer of which the silo takes no part; null = any number",
    )
    evaluated_examples_at_least: int | None = number(
        None,
        at_least=1,
        help="examples of a split to evaluate on: a smaller one is answered as if empty; null = any "
        "number",
    )
    cells_at_least: int | None = number(
        None,
        at_least=2,
        help="smallest count that an evaluation tells; smaller ones are withheld, and the metric is "
        "called partial; null = all",
    )
    reveal_counts: bool = value(
        True,
        help="whether the server may learn how many examples there are; false needs weighting=equal",
    )
    code: list[str] = entries(
        list,
        pattern=SHA256,
        wanted="a SHA-256 in hex",
        help="SHA-256 of releases (meadow version) whose runs are taken part in beside the silo's "
        "own",
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
    threads: int | None = number(None, at_least=1, help="threads of torch; null = as the run says")
    batch_size_at_most: int | None = number(
        None, at_least=1, help="largest batch that its memory takes; null = any"
    )
    policy: PolicyConf = section(PolicyConf, help="what its owner lets run; empty = all")
    state: str | None = storage(
        None,
        help="where what its algorithm remembers lasts; null = its job's folder, on Azure ML the "
        "blob store of its workspace",
    )
    # ---- on Azure ML
    workspace: WorkspaceConf | None = value(None, help="its Azure ML workspace")
    compute: str | None = value(None, help="its compute in the workspace")
    instance_type: str | None = value(None, help="instance type of a Kubernetes compute (AKS, Arc)")
    gpus: int = number(0, at_least=0, help="GPUs on each node; more than one: a process each")
    nodes: int = number(1, at_least=1, help="nodes of its job")
    shm_size: str | None = text(
        None,
        r"[1-9]\d*[kmg]",
        "a size such as 8g",
        help="shared memory for loader workers; null = 2g",
    )
    identity: str = one_of("managed", "user", help="as whom its job signs in")
    key_vault: str | None = value(None, help="the Key Vault that holds its private key")
    input: InputConf | None = value(None, help="its data, given to its job")
    public_key: str | None = value(
        None, help="a .pub file, to be admitted by the orchestrator's owner"
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
    host: str = value(
        "127.0.0.1",
        help="IP address or DNS name that silos dial; the certificate is made for it; auto = the "
        "job's own",
    )
    idle_timeout: float = number(
        1800.0, at_least=0, help="seconds without a run before it ends; 0 = with its queue"
    )
    # ---- on Azure ML
    workspace: WorkspaceConf | None = value(None, help="its Azure ML workspace")
    compute: str | None = value(None, help="its compute in the workspace")
    datastore: str | None = value(
        None, help="the datastore whose container holds the store and the results"
    )
    key_vault: str | None = value(None, help="the Key Vault that holds the CA")
    address: str | None = value(
        None,
        help="host:port of a gateway or private link; null = silos ask MLflow where the job is",
    )
    run_id: str | None = value(
        None,
        help="MLflow run (the job) that silos look at; null = the live one of this federation",
    )
    timeout: int = number(
        7 * 86400, at_least=60, help="seconds after which Azure ML ends a job, the silos' too"
    )
    store: str | None = value(
        None,
        help="address of the blob container; null = looked up from the datastore at launch",
    )
    tracking: str | None = value(
        None, help="MLflow address of the workspace; null = looked up at launch"
    )
    ca: str | None = value(
        None, help="file of the CA's certificate, which silos trust; it is public"
    )


@dataclass
class FederationConf:
    """Who takes part: silos by name, or `size` generated ones (silo-1, ...) when none is named."""

    name: str = value("federation", help="the federation's name")
    size: int = number(
        3,
        at_least=1,
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
    orchestrator: OrchestratorConf = section(OrchestratorConf)


@dataclass
class SimulationConf:
    """What runs the silos on one machine: Meadow's pool of workers, or Flower's engine on Ray."""

    engine: str = one_of(
        "pool", "ray", help="pool: Meadow's own workers; ray: Flower's engine", also=("backend",)
    )
    workers: int | None = number(
        None,
        at_least=0,
        help="processes that train; null = one a core; 0 = in this process (pool)",
        also=("num_workers", "processes"),
    )
    ray_address: str | None = value(
        None, help="an existing Ray cluster; null = a private one (ray)", also=("address",)
    )
    ray_insecure: bool = value(
        False,
        help="use such a cluster also where it asks nobody for a token: whoever reaches it can run "
        "code there",
    )
    malloc: bool = value(
        True, help="glibc thresholds that keep activations mapped (docs/benchmarks.md)"
    )


@dataclass
class TrackingConf:
    """Where metrics go beside the run's own folder."""

    mlflow: str = one_of(
        "off",
        "local",
        "environment",
        help="off, a local file store, or where MLflow's environment variables say",
    )
    experiment: str = value(
        "meadow", help="MLflow's experiment; in a job of Azure ML, the job's own is used"
    )
    register: bool = value(
        False, help="the finished run's model becomes a version in MLflow's model registry"
    )
    model: str | None = text(
        None,
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}",
        "ASCII letters, digits, '.', '-' and '_'",
        help="the name that it is registered under; null = <federation.name>-<task.name>",
    )


@dataclass
class Conf:
    """The whole configuration of a run."""

    run: RunConf = section(RunConf)
    task: TaskConf = section(TaskConf)
    data: DataConf = section(DataConf)
    model: ModelConf = section(ModelConf)
    trainer: TrainerConf = section(TrainerConf)
    strategy: StrategyConf = section(StrategyConf)
    privacy: PrivacyConf = section(PrivacyConf)
    compression: CompressionConf = section(CompressionConf)
    federation: FederationConf = section(FederationConf)
    simulation: SimulationConf = section(SimulationConf)
    tracking: TrackingConf = section(TrackingConf)


RUN_SCOPE = ("run", "task", "model", "trainer", "strategy", "privacy", "compression")
"""The groups that travel to a silo."""

EXTERNAL = "external"
"""The choice of a group that stands for every class from outside this tree."""
VARIANTS: dict[str, dict[str, type[Any]]] = {
    "model": {
        "cnn": ModelConf,
        "mlp": MlpConf,
        "resnet18": ResNetConf,
        "task": TaskModelConf,
        EXTERNAL: ExternalModelConf,
    },
    "strategy": {
        "fedavg": StrategyConf,
        "fedprox": FedProxConf,
        "scaffold": ScaffoldConf,
        EXTERNAL: ExternalStrategyConf,
    },
}
"""Groups whose keys depend on the chosen name."""


def is_outside(name: str) -> bool:
    """Say whether a name is that of a class from outside this tree, such as `wine.Wine`."""
    return re.fullmatch(OUTSIDE, name) is not None


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
    data: DataConf = section(DataConf)
    device: str | None = device(None)
    threads: int | None = None
    batch_size_at_most: int | None = number(None, at_least=1)
    policy: PolicyConf = section(PolicyConf)
