"""The first layer over images: scaled by what all silos know, drawn anew in training alone."""

from __future__ import annotations

import torch

from client.images.augmentation import augmentation
from client.images.pixel_layer import PixelLayer, specs_of, sums_of
from client.sums import SIZE, folded


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
