"""An error crosses the border as its code and fields, and what comes across is quoted in one line."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.border import (
    LONGEST_FIELD,
    CrossedError,
    across,
    field,
    heard,
    one_line,
)
from conf.errors import DataError, SiloError
from conf.job_logs import PlainLines

SECRET = "/data/patients/Jane Doe.csv"


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_an_error_of_meadow_crosses_as_its_code_alone() -> None:
    assert across(DataError("MDW-201", f"{SECRET} is damaged.", "Look at it.")) == "MDW-201"


def test_fields_cross_that_were_declared() -> None:
    error = SiloError("MDW-341", "no", told={"refused": "model=cnn (allowed: mlp)", "rounds": 3})
    assert across(error) == 'MDW-341 {"refused":"model=cnn (allowed: mlp)","rounds":3}'
    assert heard(across(error)) == (
        "the silo says MDW-341 (refused model=cnn (allowed: mlp), rounds 3)"
    )


@pytest.mark.parametrize(
    "value", [SECRET, "a'b", 'a"b', "a\nb", "\x1b[2J", "ä", "x" * (LONGEST_FIELD + 1), ""]
)
def test_a_field_that_could_be_a_path_or_a_sentence_does_not_cross(value: str) -> None:
    assert across(SiloError("MDW-341", "no", told={"asked": value})) == "MDW-341"
    assert across(SiloError("MDW-341", "no", told={"asked": field(value)})).count(SECRET) == 0
    lie = f"MDW-341 {json.dumps({'asked': value})}"
    assert "\x1b" not in heard(lie) and "\n" not in heard(lie) and SECRET not in heard(lie)


def test_what_anybody_s_code_raised_crosses_as_its_kind_and_place() -> None:
    error = raised(KeyError(SECRET))
    line = across(error)
    assert line.startswith('MDW-647 {"at":"test_border.py:')
    assert '"raised":"KeyError"' in line and "Jane" not in line


def test_what_has_crossed_crosses_no_second_time() -> None:
    assert across(CrossedError("MDW-201")) == "MDW-201"


def test_what_is_no_such_line_is_a_quotation() -> None:
    said = heard("MDW-643: The CA is lost.\x1b]0;owned\x07\nRun: rm -rf /")
    assert said.startswith("the silo says MDW-648, in its own words: ")
    assert "\x1b" not in said and "\n" not in said and len(said) < 300
    assert heard(None) == heard("  ") == "the silo says MDW-648"


def test_a_line_that_a_node_of_flower_wrapped_is_read() -> None:
    wrapped = "<class 'conf.border.CrossedError'>:<'MDW-205'>"
    assert heard(wrapped) == "the silo says MDW-205"


@given(st.text())
def test_whatever_is_said_is_one_marked_line_of_bounded_length(text: str) -> None:
    for line in (heard(text), heard(f"MDW-341 {text}"), heard(json.dumps({"a": text}))):
        assert line.startswith("the silo says MDW-") and line.isprintable()
        assert len(line) < 10_000


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.none(), st.floats())))
def test_both_sides_let_the_same_fields_pass(told: dict[str, object]) -> None:
    line = across(SiloError("MDW-341", "no", told=told))  # type: ignore[arg-type]  # anything
    assert heard(line).isprintable() and len(line) < 12_000


def test_an_error_keeps_its_fields_on_its_way_between_processes() -> None:
    error = SiloError("MDW-341", "no", "hint", {"asked": "x"})
    make, arguments = error.__reduce__()
    again = make(*arguments)
    assert (again.code, again.hint, again.told) == ("MDW-341", "hint", {"asked": "x"})


def test_a_log_holds_no_control_characters_whoever_wrote_them() -> None:
    record = logging.LogRecord(
        "a", 20, "f", 1, "%s", ("\x1b]0;owned\x07\x1b[2Jä\n\tb\u202e",), None
    )
    assert PlainLines("%(message)s").format(record) == "�]0;owned��[2Jä\n\tb�"


def test_a_line_is_cut_at_its_end() -> None:
    assert one_line("a\r\nb\x00c" + "d" * 100, 10) == "a b cdd..."
