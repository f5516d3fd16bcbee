"""What people write in YAML is what it looks like."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from azureml_jobs.jobs.silo_file import with_own
from conf import federation
from conf.compose import compose
from conf.plain_yaml import load


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E+2", 100.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.inf", -math.inf),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("+7", 7),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("on", "on"),
        ("No", "No"),
        ("yes", "yes"),
        ("2026-01-01", "2026-01-01"),
        ("1.10.2", "1.10.2"),
        ("12e", "12e"),
        ("'010'", "010"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("nUll", "nUll"),
    ],
)
def test_a_scalar_is_what_yaml_1_2_says(text: str, value: object) -> None:
    read = load(text)
    assert read == value
    assert type(read) is type(value)


def test_not_a_number_is_one_of_its_numbers() -> None:
    assert math.isnan(load(".nan"))


def test_an_empty_value_is_null_and_keys_are_text() -> None:
    assert load("a:\non: 1\n") == {"a": None, "on": 1}


def test_mappings_can_be_merged() -> None:
    assert load("base: &b {x: 1}\nother: {<<: *b, y: 2}")["other"] == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\na: 2",
        "a: {b: 1, b: 1}",
        "!!python/name:os.system x",
        "a: [1",
        "!mine x",
        "9223372036854775808",
        "-9223372036854775809",
        "&a [*a]",
        "[" * 50_000,
        "a: &a [1]\n" + "\n".join(f"b{i}: &a [*a, *a, *a, *a]" for i in range(12)),
    ],
)
def test_what_is_given_twice_or_is_no_plain_yaml_is_an_error(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load(text)


def test_a_federations_file_is_read_so(tmp_path: Path) -> None:
    file = tmp_path / "clinics.yaml"
    file.write_text("name: on\nsilos:\n  no: {data: {alpha: 1e-1, root: 1:30}}\n")
    read = federation.read(file)
    assert read["name"] == "on"
    assert read["silos"] == {"no": {"data": {"alpha": 0.1, "root": str(tmp_path / "1:30")}}}


def test_a_silos_own_file_is_read_so(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("data: {alpha: 5e-1}\nbatch_size_at_most: 010\n")
    silo = with_own(compose([]), "north", file).federation.silos["north"]
    assert silo.batch_size_at_most == 10
    assert silo.data["alpha"] == 0.5
