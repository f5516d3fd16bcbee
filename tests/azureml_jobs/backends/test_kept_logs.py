"""What a job has said is kept for as long as its owner says, while the job goes on writing."""

from __future__ import annotations

from pathlib import Path

import pytest

from azureml_jobs.backends.kept_logs import DAY, LogLifetime, forget_logs, log_files
from azureml_jobs.backends.local_jobs import LocalJobs, Tail


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def said(folder: Path) -> list[str]:
    return [line for path in log_files(folder) if path.exists() for line in Tail(path).lines()]


def test_each_day_is_kept_for_its_lifetime_and_a_job_goes_on_writing(
    tmp_path: Path, clock: Clock
) -> None:
    lifetime = LogLifetime(tmp_path, 3, clock)
    with (tmp_path / "log.txt").open("ab", buffering=0) as job:
        for day in range(10):
            job.write(f"day {day}\n".encode())
            clock.now += DAY
            lifetime.look()
            lifetime.look()
        assert said(tmp_path) == ["day 7", "day 8", "day 9"]
        job.write(b"now\n")
    assert said(tmp_path)[-1] == "now"
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in log_files(tmp_path)[:-1])


@pytest.mark.parametrize("days", [None, 365.0])
def test_without_a_lifetime_or_before_its_end_nothing_is_lost(
    tmp_path: Path, clock: Clock, days: float | None
) -> None:
    lifetime = LogLifetime(tmp_path, days, clock)
    for day in range(5):
        with (tmp_path / "log.txt").open("a") as job:
            job.write(f"day {day}\n")
        clock.now += DAY
        lifetime.look()
    assert said(tmp_path) == [f"day {day}" for day in range(5)]
    assert len(log_files(tmp_path)) == (1 if days is None else 6)


def test_a_lifetime_of_hours_and_of_nothing(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "log.txt").write_text("old\n")
    lifetime = LogLifetime(tmp_path, 0.25, clock)
    clock.now += DAY / 4
    lifetime.look()
    assert said(tmp_path) == ["old"]
    clock.now += DAY / 4
    lifetime.look()
    assert said(tmp_path) == []


def test_a_log_that_is_not_there_or_not_to_be_written_costs_no_job(
    tmp_path: Path, clock: Clock
) -> None:
    lifetime = LogLifetime(tmp_path / "none", 1, clock)
    clock.now += 2 * DAY
    lifetime.look()


def test_what_was_said_is_forgotten_and_a_reader_follows_what_comes(tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "log-20260101T000000000000.txt").write_text("older\n")
    (folder / "log-of-mine.txt").write_text("not ours\n")
    with (folder / "log.txt").open("ab", buffering=0) as job:
        job.write(b"first\nsecond\n")
        tail = Tail(folder / "log.txt")
        assert tail.lines() == ["first", "second"]
        assert forget_logs(folder) == (2, 19)
        assert tail.lines() == []
        job.write(b"third\n")
        assert tail.lines() == ["third"]
    assert (folder / "log-of-mine.txt").exists() and len(log_files(folder)) == 1


def test_logs_show_what_was_put_aside_first(tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "log-20260101T000000000000.txt").write_text("older\n")
    (folder / "log.txt").write_text("newer\n")
    assert list(LocalJobs(tmp_path).logs(["server"])) == ["[server] older", "[server] newer"]
