"""A lock is read as it is written, and what is no exact version is refused."""

from __future__ import annotations

import pytest

from supply.pins import Pin, pins_of, text_of

ONE = "sha256:" + "a" * 64
TWO = "sha256:" + "b" * 64


def test_a_lock_is_read_as_it_was_written() -> None:
    pins = [
        Pin("numpy", "2.4.6", hashes=(ONE, TWO)),
        Pin("tzdata", "2026.6", "sys_platform == 'win32'", (ONE,)),
        Pin("Jinja2", "3.1.6"),
    ]
    text = text_of(pins, "What this is.\nAnd more.\n")
    assert text.startswith("# What this is.\n# And more.\nnumpy==2.4.6 \\\n    --hash=sha256:aaa")
    assert pins_of(text) == pins


def test_comments_and_extras_are_left_out() -> None:
    (pin,) = pins_of("# a comment\nray[client,default]==2.55.1  # why\n\n")
    assert (pin.name, pin.version) == ("ray", "2.55.1")


@pytest.mark.parametrize(
    "line",
    [
        "numpy>=2",
        "numpy",
        "./here",
        "--index-url https://example.org/simple",
        "a @ https://b/c.whl",
    ],
)
def test_what_is_no_exact_version_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="no exact version"):
        pins_of(line)


def test_names_are_compared_as_an_index_does() -> None:
    assert Pin("ast_Serialize.x", "1").key == "ast-serialize-x"
