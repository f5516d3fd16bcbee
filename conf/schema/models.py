"""The models by name, and where their first weights come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conf.fields import code, entries, number, one_of, target, value


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
        at_most=2**17,
        entries_at_most=64,
        help="units of each hidden layer, such as [64,32]",
        also=("hidden_sizes", "hidden_dim", "hidden_layer_sizes"),
    )


@dataclass
class LinearConf(ModelConf):
    """Logistic regression of classes, linear regression of numbers."""

    name: str = value("linear", help="the model")


@dataclass
class ResMlpConf(ModelConf):
    """A residual network for tables, with layer normalisation."""

    name: str = value("resmlp", help="the model")
    width: int = number(128, at_least=1, at_most=2**14, help="units of a block")
    blocks: int = number(2, at_least=1, at_most=64, help="residual blocks", also=("depth",))
    dropout: float = number(
        0.1, at_least=0, at_most=0.9, help="share of units left out in training"
    )


@dataclass
class ResNetConf(ModelConf):
    """ResNet-18 with its normalisation: batch (buffers travel) or group (none to travel)."""

    name: str = value("resnet18", help="the model")
    norm: str = one_of(
        "batch", "group", help="normalisation: batch (its buffers travel) or group (it has none)"
    )


@dataclass
class VisionConf(ModelConf):
    """A network of torchvision with its normalisation."""

    name: str = value("resnet50", help="the model")
    norm: str = one_of(
        "group",
        "batch",
        "frozen",
        help="normalisation: group (nothing but weights travels), batch (its running statistics "
        "travel), or frozen (they stay as model.init has them)",
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
