"""A server's word on a run's code is another party's text: measured, and held to its form."""

from __future__ import annotations

import pytest

from conf.errors import SiloError
from strategies.wire import headers
from strategies.wire.run_code import RunCode

CODE = RunCode(1, "a" * 64, "b" * 64, ("client/tasks/digits.py", "strategies/fedavg.py"))


def test_what_is_written_is_read() -> None:
    assert RunCode.from_headers(CODE.to_headers()) == CODE
    assert RunCode.from_headers([("other", "1"), *CODE.to_headers()]) == CODE


def test_a_stock_server_says_nothing() -> None:
    assert RunCode.from_headers([("date", "today")]) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (headers.WIRE_VERSION, ""),
        (headers.WIRE_VERSION, "-1"),
        (headers.WIRE_VERSION, "9" * 5000),
        (headers.WIRE_VERSION, "²"),
        (headers.RUN_CODE, ""),
        (headers.RUN_CODE, "A" * 64),
        (headers.RUN_CODE, "a" * 64 + "\n"),
        (headers.RUN_RELEASE, "a" * 65),
        (headers.RUN_FILES, "../../etc/passwd"),
        (headers.RUN_FILES, "client/tasks/../../conf/schema/run.py"),
        (headers.RUN_FILES, "client/node/node.py"),
        (headers.RUN_FILES, "client/tasks/" + "a" * 65 + ".py"),
        (headers.RUN_FILES, "client/tasks/a.py " * 9),
    ],
)
def test_a_header_of_another_form_is_refused_by_name(name: str, value: str) -> None:
    said = dict(CODE.to_headers()) | {name: value}
    with pytest.raises(SiloError, match=f"MDW-337: .* its header {name}"):
        RunCode.from_headers(said.items())


def test_a_header_that_is_missing_is_refused() -> None:
    said = dict(CODE.to_headers())
    del said[headers.RUN_CODE]
    with pytest.raises(SiloError, match="MDW-337"):
        RunCode.from_headers(said.items())
