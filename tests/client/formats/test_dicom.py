"""DICOM images, made on the spot: rescaled, windowed, the right way round; and what no header tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from client.formats.dicom import is_dicom, read_dicom
from client.formats.image_file import read_image
from conf.border import across
from conf.errors import DataError

PIXELS = np.arange(12, dtype=np.uint16).reshape(3, 4) * 100


def saved(file: Path, **given: Any) -> Path:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.SOPClassUID = SecondaryCaptureImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID
    image.PatientName = "Secret^Name"
    image.Rows, image.Columns = PIXELS.shape
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    image.PixelRepresentation = 0
    image.PixelData = PIXELS.tobytes()
    for name, value in given.items():
        setattr(image, name, value)
    image.save_as(file, enforce_file_format=True)
    return file


def test_values_span_0_to_255_where_the_file_says_no_window(tmp_path: Path) -> None:
    file = saved(tmp_path / "x.dcm")

    pixels = read_dicom(file)

    assert is_dicom(file)
    assert pixels.shape == (3, 4, 1)
    np.testing.assert_allclose(pixels[:, :, 0], PIXELS / 1100 * 255, rtol=1e-5)


def test_a_file_that_is_deflated_as_a_whole_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(tmp_path / "x.dcm")
    bomb = pydicom.dcmread(file)
    bomb.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    bomb.PixelData = bytes(8 << 20)
    bomb.save_as(file, enforce_file_format=True)
    assert file.stat().st_size < 20_000

    def unpacked(*args: object, **kwargs: object) -> None:
        raise AssertionError("it was unpacked")

    monkeypatch.setattr(pydicom, "dcmread", unpacked)
    with pytest.raises(DataError, match=r"MDW-248.*deflated as a whole"):
        read_dicom(file)


def test_monochrome1_is_turned_round(tmp_path: Path) -> None:
    plain = read_dicom(saved(tmp_path / "a.dcm"))
    turned = read_dicom(saved(tmp_path / "b.dcm", PhotometricInterpretation="MONOCHROME1"))

    np.testing.assert_allclose(turned, 255 - plain, atol=1e-4)


def test_the_window_of_the_file_is_applied_to_rescaled_values(tmp_path: Path) -> None:
    file = saved(
        tmp_path / "x.dcm", RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=0, WindowWidth=400
    )

    pixels = read_dicom(file)[:, :, 0]

    rescaled = PIXELS.astype(float) * 2 - 1000
    assert (pixels[rescaled <= -200] == 0).all()
    assert (pixels[rescaled >= 200] == 255).all()
    assert pixels[(rescaled > -200) & (rescaled < 200)].min() > 0


def test_several_frames_are_refused_and_no_header_is_told(tmp_path: Path) -> None:
    file = saved(tmp_path / "x.dcm", NumberOfFrames=2, PixelData=PIXELS.tobytes() * 2)

    with pytest.raises(DataError, match="several frames") as caught:
        read_dicom(file)

    assert caught.value.code == "MDW-248"
    assert "Secret" not in str(caught.value) + across(caught.value)


def test_one_that_was_cut_off_is_told_by_its_kind(tmp_path: Path) -> None:
    file = saved(tmp_path / "x.dcm", PixelData=PIXELS.tobytes()[:8])

    with pytest.raises(DataError) as caught:
        read_image(file, 1, 3, 4, resize=True)

    assert caught.value.code == "MDW-248"
    assert "Secret" not in str(caught.value)


def test_a_png_is_no_dicom(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(b"\x89PNG" + b"\0" * 200)

    assert not is_dicom(tmp_path / "x.dcm")
