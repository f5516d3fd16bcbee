"""The first layer over images: scaled by what all silos know, drawn anew in training alone."""

from __future__ import annotations

import pytest
import torch

from client.images.augmentation import ALLOWED, augmentation
from client.images.pixel_layer import PixelLayer, specs_of, sums_of
from client.sums import SIZE, folded
from conf.errors import ConfigError


def images(count: int, seed: int = 0) -> torch.Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 6, 5), dtype=torch.uint8, generator=drawn)


def test_mean_and_deviation_are_those_of_all_pixels_of_all_silos() -> None:
    whole = images(130)
    layer = PixelLayer((3, 6, 5))
    parts = [{**sums_of(part, None, 0), SIZE: torch.tensor(len(part))} for part in whole.split(40)]

    layer.fit(folded(parts))
    made = layer(whole)

    torch.testing.assert_close(made.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(made.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_each_sum_is_held_to_what_so_many_images_add_up_to() -> None:
    labels = torch.arange(50) % 2
    given = sums_of(images(50), labels, 2)

    for name, spec in specs_of(3, 2).items():
        assert given[name].shape == spec.shape
        assert 0 <= float(given[name].min()) <= float(given[name].max()) <= spec.high * 50


def test_images_that_are_all_alike_are_not_scaled() -> None:
    layer = PixelLayer((3, 6, 5))
    black = torch.zeros(4, 3, 6, 5, dtype=torch.uint8)

    layer.fit({**sums_of(black, None, 0), SIZE: torch.tensor(4)})

    assert layer(black).abs().max() == 0


def test_what_is_drawn_anew_is_drawn_in_training_alone_and_from_torchs_generator() -> None:
    layer = PixelLayer((3, 6, 5), augment=augmentation([{"name": "RandomHorizontalFlip"}], (6, 5)))
    some = images(16)

    torch.manual_seed(1)
    first = layer.train()(some)
    torch.manual_seed(1)
    again = layer(some)
    still = layer.eval()(some)

    assert torch.equal(first, again)
    assert not torch.equal(first, still)
    # Each image is turned or not by itself.
    turned = (first != still).flatten(1).any(1)
    assert 0 < int(turned.sum()) < 16


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
