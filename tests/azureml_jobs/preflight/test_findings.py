"""The table of a check: its columns, what to do below what is wrong, and when a launch is refused."""

from __future__ import annotations

import pytest

from azureml_jobs.preflight.findings import ERROR, WARNING, Finding, Table, failed, tried
from conf.errors import AzureError, ConfigError


def test_columns_line_up_and_only_what_is_wrong_has_a_fix() -> None:
    table = Table(
        [
            Finding("server", "quota", seen="4 of 8 cores", fix="never shown"),
            Finding("silo-north", "data", WARNING, "empty", "Fill it."),
            Finding("silo-north", "key", ERROR, "MDW-1 gone"),
        ]
    )
    assert table.lines() == [
        "server      quota  ok       4 of 8 cores",
        "silo-north  data   warning  empty",
        "            -> Fill it.",
        "silo-north  key    error    MDW-1 gone",
    ]
    assert Table().lines() == []


def test_warnings_do_not_keep_a_launch_back() -> None:
    table = Table([Finding("server", "quota"), Finding("server", "listen", WARNING, "x", "y")])
    table.refuse()
    assert table.errors == []


@pytest.mark.parametrize(("errors", "more"), [(1, ""), (3, ""), (4, " (and 1 more)")])
def test_a_refusal_names_the_first_errors_and_counts_the_rest(errors: int, more: str) -> None:
    rows = [Finding(f"silo-{n}", "key", ERROR, f"seen {n}") for n in range(1, errors + 1)]
    with pytest.raises(AzureError, match="MDW-813") as caught:
        Table(rows).refuse()
    message = caught.value.message
    assert message.startswith("Not launched: silo-1, key: seen 1")
    assert message.endswith(f"seen {min(errors, 3)}{more}.")


def test_what_was_seen_is_ok_and_what_was_raised_is_an_error_with_its_way_out() -> None:
    def absent() -> str:
        return open("/no/such/file").read()

    def refused() -> str:
        raise ConfigError("MDW-104", "It is wrong.", "Correct it.")

    assert tried("server", "file", lambda: "3 lines") == Finding("server", "file", seen="3 lines")
    lost = tried("server", "file", absent)
    assert (lost.state, lost.seen) == (ERROR, "/no/such/file: No such file or directory")
    error = tried("server", "file", refused, security=True)
    assert error == Finding("server", "file", ERROR, "MDW-104 It is wrong", "Correct it.", True)
    assert failed("a", "b", ConfigError("MDW-104", "No.", "Do.")).security is False
