"""A network's weights from a local file: all but the last layer, and no pickle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import get_model

from client.models import build_model
from client.tasks import task_of
from conf.compose import compose
from conf.errors import ConfigError
from conf.schema import Conf
from server.scoring.evaluation import first_weights
from strategies.wire import protocol


def conf_of(file: Path, channels: int = 3) -> Conf:
    size = ["task.height=64", "task.width=64", f"task.channels={channels}", "task.classes=[a,b]"]
    return compose(
        ["task=images", *size, "model=densenet121", "model.norm=frozen", f"model.init={file}"]
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A file as torchvision's weights are, for 10 classes of something else."""
    torch.manual_seed(5)
    state = get_model("densenet121", weights=None, num_classes=10).state_dict()
    state["features.norm0.running_mean"].fill_(0.25)
    file = tmp_path_factory.mktemp("weights") / "densenet121.safetensors"
    save_file(state, file)
    return file, state


def test_all_but_the_last_layer_is_the_files(published: tuple[Path, dict[str, Tensor]]) -> None:
    file, state = published
    conf = conf_of(file)
    drawn = build_model(conf.model, task_of(conf.task), conf.run.seed).state_dict()

    found = protocol.to_state(first_weights(conf))

    for name, value in found.items():
        inner = name.removeprefix("model.")
        if name.startswith("input.") or inner.startswith("classifier."):
            assert torch.equal(value, drawn[name]), name
        else:
            assert torch.equal(value, state[inner]), name
    assert float(found["model.features.norm0.running_mean"].mean()) == 0.25


def test_grey_images_take_the_sum_of_the_colours(
    published: tuple[Path, dict[str, Tensor]],
) -> None:
    file, state = published
    found = protocol.to_state(first_weights(conf_of(file, channels=1)))
    wanted = state["features.conv0.weight"].sum(1, keepdim=True)
    assert torch.equal(found["model.features.conv0.weight"], wanted)


@pytest.mark.parametrize("change", ["less", "more", "shape"])
def test_what_does_not_fit_is_named(
    published: tuple[Path, dict[str, Tensor]], tmp_path: Path, change: str
) -> None:
    state = dict(published[1])
    name = "features.denseblock1.denselayer1.conv1.weight"
    if change == "less":
        del state[name]
    elif change == "more":
        name = "features.more"
        state[name] = torch.zeros(2)
    else:
        state[name] = torch.zeros(3, 3)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=name) as caught:
        first_weights(conf_of(tmp_path / "other.safetensors"))
    assert caught.value.code == "MDW-184"
