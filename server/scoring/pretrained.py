"""First weights that were trained on something else: a network's, from a local file of safetensors.

Such a file knows nothing of a task: it has no input layer, a last layer for other classes, and three
channels. Everything between has to fit, name by name.

    MDW-184 a file whose names or shapes are not the network's
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn

from client.input_layer import WithInputLayer
from conf.errors import ConfigError

log = logging.getLogger(__name__)

COUNTED: Final = "num_batches_tracked"
"""A buffer of BatchNorm that a frozen one lacks, and that no output depends on."""


def takes_pretrained(model: nn.Module, given: Mapping[str, Tensor], source: str) -> None:
    """Load a network's weights into the model behind its input layer, in place; its last layer stays
    as it was drawn where the file has another, and a first convolution of one channel takes the sum
    of three.

    Raises ConfigError MDW-184 for any other difference; `source` names the file.
    """
    inner = model.model if isinstance(model, WithInputLayer) else model
    own = inner.state_dict()
    last = _last_layer(inner)
    chosen = {}
    drawn = []
    for name, value in own.items():
        found = given.get(name)
        if found is not None and _is_grey(value, found):
            found = found.sum(1, keepdim=True)
        if found is not None and found.shape == value.shape:
            chosen[name] = found
        elif name.rpartition(".")[0] == last or name.endswith(COUNTED):
            drawn.append(name)
        else:
            what = "lacks it" if found is None else f"has it as {tuple(found.shape)}"
            raise _unfit(source, f"{name} is {tuple(value.shape)}, and the file {what}")
    for name in given:
        if name not in own and name.rpartition(".")[0] != last and not name.endswith(COUNTED):
            raise _unfit(source, f"the file has {name!r:.80}, and the model has not")
    inner.load_state_dict(own | chosen)
    log.info("%s: %d arrays are taken, %s stay as they are drawn.", source, len(chosen), drawn)


def _last_layer(model: nn.Module) -> str:
    """Return the name of the last layer that has weights of its own: what tells the classes apart."""
    names = [name for name, one in model.named_modules() if one._parameters]
    return names[-1] if names else ""


def _is_grey(own: Tensor, given: Tensor) -> bool:
    """Whether a convolution of colour is given to one of grey."""
    shape = list(given.shape)
    return len(shape) == 4 and shape[1] == 3 and list(own.shape) == [shape[0], 1, *shape[2:]]


def _unfit(source: str, why: str) -> ConfigError:
    return ConfigError(
        "MDW-184",
        f"{source} does not fit this model: {why}.",
        "Choose the model group that it was trained with, and model.norm=frozen or batch.",
    )
