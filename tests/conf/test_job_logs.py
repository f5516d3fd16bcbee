"""A job's log: for people, or a JSON object a line."""

from __future__ import annotations

import json
import logging

import pytest

from conf.job_logs import VARIABLE, JsonLines, formatter


def record(message: str, error: Exception | None = None) -> logging.LogRecord:
    info = None if error is None else (type(error), error, None)
    return logging.LogRecord("server.x", logging.WARNING, "x.py", 1, message, (), info)


def test_one_line_is_one_object_whatever_the_message_holds() -> None:
    text = JsonLines().format(record('two\nlines "and" \x1b[2J'))
    assert "\n" not in text
    line = json.loads(text)
    assert line["message"] == 'two\nlines "and" \x1b[2J'
    assert (line["level"], line["logger"]) == ("WARNING", "server.x")
    assert line["time"].endswith("+00:00")
    assert "error" not in line
    assert (
        "ValueError: bad" in json.loads(JsonLines().format(record("x", ValueError("bad"))))["error"]
    )


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert formatter().format(record("hello")).endswith("server.x: hello")
    monkeypatch.setenv(VARIABLE, "json")
    assert json.loads(formatter().format(record("hello")))["message"] == "hello"
