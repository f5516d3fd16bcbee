"""What a job says is read as it grows; of one that never ran its owner sees why its image was not built."""

from __future__ import annotations

from dataclasses import dataclass, field

from azureml_jobs.backends.azure_log import BUILD_LINES, AzureLog
from azureml_jobs.backends.workspace import JobTold

LOG = "https://logs/std"
BUILD = "https://logs/build"
NOT_BUILT = (
    "Image build failed. For more details, check log file azureml-logs/20_image_build_log.txt."
)


@dataclass
class Source:
    """A workspace with one job, whose log grows as the test says."""

    told_now: JobTold
    texts: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def told(self, name: str) -> JobTold:
        return self.told_now

    def log(self, url: str, start: int) -> bytes:
        self.asked.append(url)
        return self.texts[url][start:]


def test_whole_lines_come_once_and_the_rest_when_it_has_ended() -> None:
    source = Source(JobTold("Running", "", {"user_logs/std_log.txt": LOG}), {LOG: b"one\ntw"})
    log = AzureLog(source, "job", "north")
    assert log.lines() == [("north", "one")] and not log.over
    source.texts[LOG] = b"one\ntwo\nthr"
    assert log.lines() == [("north", "two")]
    source.told_now = JobTold("Failed", "exit 7", source.told_now.logs)
    assert log.lines() == [("north", "thr"), ("north", "Failed: exit 7")] and log.over


def test_of_an_image_that_was_not_built_the_last_lines_of_the_build_are_shown() -> None:
    text = "\n".join(f"step {number}" for number in range(200)) + "\n\nERROR: no matching flwr\n"
    source = Source(JobTold("Failed", NOT_BUILT, {}, BUILD), {BUILD: text.encode()})
    lines = [line for _, line in AzureLog(source, "job", "north").lines()]
    assert len(lines) == BUILD_LINES + 1
    assert lines[-2] == "build: ERROR: no matching flwr" and lines[0] == "build: step 181"
    assert lines[-1].startswith("MDW-815: Failed: Image build failed.")


def test_without_a_build_log_the_reason_alone_is_told_and_another_failure_shows_no_build() -> None:
    source = Source(JobTold("Failed", NOT_BUILT, {}))
    (line,) = AzureLog(source, "job", "north").lines()
    assert line[1].startswith("MDW-815")
    other = Source(JobTold("Failed", "User process exited with 7", {}, BUILD), {BUILD: b"fine"})
    assert AzureLog(other, "job", "north").lines() == [
        ("north", "Failed: User process exited with 7")
    ]
    assert other.asked == []
