"""Images in files: whatever they are, pixels of 0 to 255; and what is no image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.formats.image_file import read_image
from conf.border import across
from conf.errors import DataError


def saved(file: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file)
    return file


GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.bmp"])
def test_grey_images_are_read_as_they_are(tmp_path: Path, name: str) -> None:
    pixels = read_image(saved(tmp_path / name, GREY), 1, 6, 8, resize=False)

    assert np.array_equal(pixels[0].numpy(), GREY)


def test_a_jpeg_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    saved(tmp_path / "x.jpeg", GREY).rename(tmp_path / "x.png")

    pixels = read_image(tmp_path / "x.png", 1, 6, 8, resize=False)

    assert np.abs(pixels[0].numpy().astype(int) - GREY).mean() < 8


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bits_become_eight(tmp_path: Path, name: str) -> None:
    file = saved(tmp_path / name, GREY.astype(np.uint16) * 257)

    assert np.array_equal(read_image(file, 1, 6, 8, resize=False)[0].numpy(), GREY)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_mode_becomes_the_channels_of_the_contract(
    tmp_path: Path, mode: str, channels: int
) -> None:
    file = saved(tmp_path / "x.tif", GREY, mode)

    assert read_image(file, channels, 6, 8, resize=False).shape == (channels, 6, 8)


def test_another_size_is_resized_or_breaks_the_contract(tmp_path: Path) -> None:
    file = saved(tmp_path / "x.png", GREY)

    assert read_image(file, 1, 3, 4, resize=True).shape == (1, 3, 4)
    with pytest.raises(DataError, match="of another size"):
        read_image(file, 1, 3, 4, resize=False)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n then nothing"])
def test_what_is_no_image_is_told_without_its_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "patient-7.png"
    file.write_bytes(content)

    with pytest.raises(DataError) as caught:
        read_image(file, 1, 6, 8, resize=True)

    assert caught.value.code == "MDW-245"
    assert "patient" not in across(caught.value)


def test_an_image_that_was_cut_off_is_told(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    file = saved(tmp_path / "x.jpg", noise)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    with pytest.raises(DataError, match="cut off"):
        read_image(file, 3, 64, 64, resize=True)


def test_an_image_that_claims_to_be_huge_is_not_decoded(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    Image.new("1", (20_000, 20_000)).save(file)

    with pytest.raises(DataError, match="too large"):
        read_image(file, 1, 6, 8, resize=True)


def test_several_pages_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY), Image.fromarray(GREY)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])

    with pytest.raises(DataError, match="several pages"):
        read_image(tmp_path / "x.tif", 1, 6, 8, resize=True)
