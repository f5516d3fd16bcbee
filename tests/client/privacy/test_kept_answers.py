"""A kept answer is the one that is sent again, to the bit, and never another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from client.privacy.kept_answers import KeptAnswers, key_of
from client.privacy.noised_sums import NoisedSums
from client.tasks import task_named

FORM = NoisedSums(task_named("digits"), 4.0)
KEY = key_of("run", 1, "validation", "model")


def drawn(seed: int) -> dict[str, torch.Tensor]:
    return FORM.noised(FORM.nothing(), 3.0, torch.Generator().manual_seed(seed))


def test_it_comes_back_to_the_bit_and_the_first_one_stays(tmp_path: Path) -> None:
    answers = KeptAnswers.at(str(tmp_path), "north")
    assert answers.read(KEY, FORM) is None
    first = answers.keep(KEY, FORM, drawn(1), 3.0)
    for name, row in drawn(1).items():
        assert torch.equal(first.noised[name], row)
    again = KeptAnswers.at(str(tmp_path), "north").keep(KEY, FORM, drawn(2), 5.0)
    assert again.digest == first.digest and again.noise == 3.0
    assert torch.equal(again.noised["confusion"], first.noised["confusion"])


def test_it_is_that_of_one_evaluation(tmp_path: Path) -> None:
    one = ("run", 1, "validation", "model")
    others = [
        ("other", 1, "validation", "model"),
        ("run", 2, "validation", "model"),
        ("run", 1, "test", "model"),
        ("run", 1, "validation", "other"),
    ]
    assert len({key_of(*each) for each in [one, *others]}) == 5


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b'{"version": 2, "noise": 1.0, "values": {"loss": [1.0], "confusion": [1.0, 2.0]}}',
        b'{"version": 1, "noise": 1.0, "values": {"loss": [1.0], "confusion": [1.0]}}',
        b'{"version": 1, "noise": 1.0, "values": {"loss": [NaN], "confusion": [1.0, 2.0]}}',
        b'{"version": 1, "noise": 1.0, "values": {"loss": 3, "confusion": [1.0, 2.0]}}',
        b'{"version": 1, "noise": "x", "values": {"loss": [1.0], "confusion": [1.0, 2.0]}}',
        b'{"version": 1, "noise": NaN, "values": {"loss": [1.0], "confusion": [1.0, 2.0]}}',
        b'{"version": 1, "noise": 0, "values": {"loss": [1.0], "confusion": [1.0, 2.0]}}',
        b"[" * 20000,
    ],
)
def test_a_damaged_one_is_never_an_answer(tmp_path: Path, damage: bytes) -> None:
    KeptAnswers.at(str(tmp_path), "north").keep(KEY, FORM, drawn(1), 3.0)
    [file] = (tmp_path / "north" / "answers").iterdir()
    file.write_bytes(damage)
    with pytest.raises(ValueError, match=r"."):
        KeptAnswers.at(str(tmp_path), "north").read(KEY, FORM)
