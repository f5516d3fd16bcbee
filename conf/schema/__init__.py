"""What a run is: the dataclasses that every YAML file, override and message is checked against.
Each group has a module of its own here; this one puts them together.

Groups in `RUN_SCOPE` travel to the silos as plain values; everything else stays where it was
written. A field has its limits and its text beside it (`conf.fields`); `conf.validate` enforces the
limits, and help, docs/configuration.md and errors show the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from conf.fields import OUTSIDE, device, number, section
from conf.schema.aggregation_kinds import AggregationConf
from conf.schema.compression import BlockwiseConf, CompressionConf, LowRankConf, SparseConf
from conf.schema.federation import (
    FederationConf,
    InputConf,
    OrchestratorConf,
    OutboundConf,
    RelayConf,
    SiloConf,
    WorkspaceConf,
)
from conf.schema.image_sets import ImagesConf
from conf.schema.lifetimes import RunLifetimes, SiloLifetimes
from conf.schema.machine import SimulationConf, TrackingConf
from conf.schema.models import (
    ExternalModelConf,
    LinearConf,
    MlpConf,
    ModelConf,
    ResMlpConf,
    ResNetConf,
    TaskModelConf,
    VisionConf,
)
from conf.schema.policies import PolicyConf, TrainingProcessConf
from conf.schema.privacy import (
    LocalDpConf,
    NoisyConf,
    PrivacyConf,
    SampleDpConf,
    SiloDpConf,
)
from conf.schema.run import EarlyStopConf, OperatingConf, RunConf
from conf.schema.strategies import (
    BulyanConf,
    CenteredClippingConf,
    CohortRuleConf,
    ExternalStrategyConf,
    FedProxConf,
    GeometricMedianConf,
    KrumConf,
    MedianConf,
    MultiKrumConf,
    ScaffoldConf,
    StrategyConf,
    TrimmedMeanConf,
)
from conf.schema.table_columns import TableConf
from conf.schema.tasks import DataConf, TaskConf
from conf.schema.training import MachineConf, TrainerConf

__all__ = [
    "EXTERNAL",
    "RUN_SCOPE",
    "VARIANTS",
    "AggregationConf",
    "BlockwiseConf",
    "BulyanConf",
    "CenteredClippingConf",
    "CohortRuleConf",
    "CompressionConf",
    "Conf",
    "DataConf",
    "EarlyStopConf",
    "ExternalModelConf",
    "ExternalStrategyConf",
    "FedProxConf",
    "FederationConf",
    "GeometricMedianConf",
    "ImagesConf",
    "InputConf",
    "KrumConf",
    "LinearConf",
    "LocalDpConf",
    "LowRankConf",
    "MachineConf",
    "MedianConf",
    "MlpConf",
    "ModelConf",
    "MultiKrumConf",
    "NoisyConf",
    "OperatingConf",
    "OrchestratorConf",
    "OutboundConf",
    "PolicyConf",
    "PrivacyConf",
    "RelayConf",
    "ResMlpConf",
    "ResNetConf",
    "RunConf",
    "RunLifetimes",
    "RunScope",
    "SampleDpConf",
    "ScaffoldConf",
    "Silo",
    "SiloConf",
    "SiloDpConf",
    "SiloLifetimes",
    "SimulationConf",
    "SparseConf",
    "StrategyConf",
    "TableConf",
    "TaskConf",
    "TaskModelConf",
    "TrackingConf",
    "TrainerConf",
    "TrainingProcessConf",
    "TrimmedMeanConf",
    "VisionConf",
    "WorkspaceConf",
    "is_outside",
]


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
    aggregation: AggregationConf = section(AggregationConf)
    compression: CompressionConf = section(CompressionConf)
    federation: FederationConf = section(FederationConf)
    simulation: SimulationConf = section(SimulationConf)
    tracking: TrackingConf = section(TrackingConf)


RUN_SCOPE = (
    "run",
    "task",
    "model",
    "trainer",
    "strategy",
    "privacy",
    "aggregation",
    "compression",
)
"""The groups that travel to a silo."""

EXTERNAL = "external"
"""The choice of a group that stands for every class from outside this tree."""
VARIANTS: dict[str, dict[str, type[Any]]] = {
    "task": {
        "digits": TaskConf,
        "images": ImagesConf,
        "mnist": TaskConf,
        "smoke": TaskConf,
        "table": TableConf,
        EXTERNAL: TaskConf,
    },
    "model": {
        "cnn": ModelConf,
        "linear": LinearConf,
        "mlp": MlpConf,
        "resmlp": ResMlpConf,
        "resnet18": ResNetConf,
        "resnet50": VisionConf,
        "densenet121": VisionConf,
        "efficientnet_b0": VisionConf,
        "vit_b_16": ModelConf,
        "xray_cnn": ModelConf,
        "task": TaskModelConf,
        EXTERNAL: ExternalModelConf,
    },
    "strategy": {
        "fedavg": StrategyConf,
        "fedprox": FedProxConf,
        "scaffold": ScaffoldConf,
        "median": MedianConf,
        "trimmed_mean": TrimmedMeanConf,
        "krum": KrumConf,
        "multikrum": MultiKrumConf,
        "bulyan": BulyanConf,
        "geometric_median": GeometricMedianConf,
        "centered_clipping": CenteredClippingConf,
        EXTERNAL: ExternalStrategyConf,
    },
    "privacy": {
        "none": PrivacyConf,
        "sample_dp": SampleDpConf,
        "silo_dp": SiloDpConf,
        "local_dp": LocalDpConf,
    },
    "compression": {
        "none": CompressionConf,
        "bf16": CompressionConf,
        "fp16": CompressionConf,
        "int8": BlockwiseConf,
        "int4": BlockwiseConf,
        "topk": SparseConf,
        "randk": SparseConf,
        "lowrank": LowRankConf,
    },
}
"""Groups whose keys depend on the chosen name; where one of them is EXTERNAL, code may be named."""


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
    aggregation: AggregationConf
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
    gpus: int = number(0, at_least=0)
    machine: MachineConf = section(MachineConf)
    policy: PolicyConf = section(PolicyConf)
    lifetimes: SiloLifetimes = section(SiloLifetimes)
    training: TrainingProcessConf = section(TrainingProcessConf)
    outbound: OutboundConf = section(OutboundConf)
    account: str = ""
    """Where the silo's account of privacy is: a folder, or a container's address; "" = nowhere."""
