"""What is drawn anew of an image: a closed list, each of which keeps what an image is."""

from __future__ import annotations

import pytest
import torch

from client.images.augmentation import ALLOWED, augmentation
from conf.errors import ConfigError


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_each_transform_of_the_list_keeps_type_and_size(name: str) -> None:
    needed = {
        "RandomRotation": {"degrees": 9},
        "RandomAffine": {"degrees": 9},
        "GaussianBlur": {"kernel_size": 3},
        "RandomPosterize": {"bits": 4},
        "RandomSolarize": {"threshold": 128},
        "RandomAdjustSharpness": {"sharpness_factor": 2},
    }
    transform = augmentation([{"name": name, **needed.get(name, {})}], (48, 40))
    assert transform is not None

    made = transform(torch.full((3, 48, 40), 90, dtype=torch.uint8))

    assert made.shape == (3, 48, 40)
    assert made.dtype == torch.uint8


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"name": "Lambda"}, "not a transform that is allowed"),
        ({"name": "RandomFlip"}, "not a transform that is allowed"),
        ({"name": "RandomRotation", "degree": 9}, "no argument 'degree'"),
        ({"name": "RandomHorizontalFlip", "p": 7}, "refuses its arguments"),
    ],
)
def test_what_is_not_of_the_list_or_not_its_argument_is_refused(
    given: dict[str, object], why: str
) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        augmentation([given], (6, 5))

    assert caught.value.code == "MDW-188"
