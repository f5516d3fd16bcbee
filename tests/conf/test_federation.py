"""`federation.file`: silos from outside the tree, through the same dataclass, beneath the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf.compose import compose
from conf.errors import ConfigError
from conf.silos import silos

HOSPITALS = """\
name: hospitals
silos:
  south: {device: cuda, threads: 4}
  north:
    data: {root: data/north, test: 0.3}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "hospitals.yaml"
    path.write_text(HOSPITALS)
    return path


def test_the_silos_of_the_file_take_part(file: Path) -> None:
    conf = compose([f"federation.file={file}"])
    north, south = silos(conf)
    assert conf.federation.name == "hospitals"
    assert (north.name, north.data.root, north.data.test, north.data.alpha) == (
        "north",
        str(file.parent / "data/north"),
        0.3,
        0.5,
    )
    assert (south.name, south.device, south.threads, south.data.test) == (
        "south",
        "cuda",
        4,
        0.1,
    )


def test_the_command_line_wins_over_the_file_and_leaves_the_rest_of_it(file: Path) -> None:
    conf = compose(
        [
            f"federation.file={file}",
            "federation.silos.south.device=cpu",
            "federation.silos.east.threads=1",
        ]
    )
    by_name = {silo.name: silo for silo in silos(conf)}
    assert set(by_name) == {"east", "north", "south"}
    assert (by_name["south"].device, by_name["south"].threads) == ("cpu", 4)


def test_the_number_of_its_silos_limits_the_cohort(file: Path) -> None:
    with pytest.raises(ConfigError, match="2 silos"):
        compose([f"federation.file={file}", "run.cohort=3"])


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (
            "silos: {north: {thread: 2}}",
            "MDW-101",
            ("federation.silos.north.thread", "Did you mean 'threads'?"),
        ),
        ("siloes: {}", "MDW-101", ("federation.siloes", "Did you mean 'silos'?")),
        (
            "silos: {north: {threads: many}}",
            "MDW-103",
            ("federation.silos.north.threads", "'many'"),
        ),
        (
            "silos: {north: {threads: 0}}",
            "MDW-104",
            ("federation.silos.north.threads", "at least 1"),
        ),
        ("size: 2.5", "MDW-103", ("federation.size", "2.5")),
        ("[a, b]", "MDW-103", ("mapping",)),
        (
            "silos: {north: {data: {rot: x}}}",
            "MDW-101",
            ("federation.silos.north.data.rot", "'root'"),
        ),
        (
            "silos: {north: {data: {root: '${oc.env:HOME}'}}}",
            "MDW-106",
            ("silos.north.data.root", "interpolation", "on the command line"),
        ),
        ("silos: {", "MDW-106", ("line",)),
        ("file: other.yaml", "MDW-106", ("another file",)),
        ("# nothing yet\n", "MDW-106", ("is empty", "silos")),
    ],
)
def test_a_mistake_names_the_file_and_the_key(
    tmp_path: Path, text: str, code: str, words: tuple[str, ...]
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        compose([f"federation.file={path}"])
    assert caught.value.code == code
    for word in ("wrong.yaml", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"), [("nowhere.yaml", "No such file or directory"), ("", "Is a directory")]
)
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str, reason: str) -> None:
    path = tmp_path / name
    with pytest.raises(ConfigError) as caught:
        compose([f"federation.file={path}"])
    assert caught.value.code == "MDW-106" and caught.value.hint == "Correct the path."
    assert caught.value.message == f"The federation's file {path} can't be read: {reason}."
