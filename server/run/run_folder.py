"""What a run leaves behind: `outputs/<run_id>/` and the files in it."""

from __future__ import annotations

import hashlib
import math
import secrets
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from conf.errors import ConfigError
from conf.files.faults import disk_error, shown
from conf.files.whole import TEMPORARY, make_folder, rename_new
from conf.resume import folder_of
from conf.schema import Conf
from server.report.model_card import card
from server.report.overview import Overview
from server.run.checkpoint import Kept
from server.run.files import write_atomic
from server.run.result import RunResult
from server.run.start_checks import known_as, name_taken
from server.run.weights_file import weights_as_bytes


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run; its name is the run's id."""

    path: Path

    @staticmethod
    def create(conf: Conf, command: str = "", *, anew: bool = True) -> RunFolder:
        """Make the folder of a run, with its configuration in it from the first moment.

        It is its user's alone (mode 0700). It is made beside its place and renamed: a process that
        is killed leaves no folder that is taken and can't be resumed. Raises ConfigError: MDW-181
        where the name is taken and the run is `anew`, MDW-182 where the place can't be written.
        """
        name = (
            conf.run.name
            or f"{conf.task.name}-{conf.strategy.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        )
        path = Path(conf.run.output) / name
        if not conf.run.name and path.exists():
            path = path.with_name(f"{name}-{secrets.token_hex(2)}")
        if not anew and path.is_dir():
            return RunFolder(path)
        try:
            make_folder(path.parent)
            with tempfile.TemporaryDirectory(
                dir=path.parent, prefix=TEMPORARY, ignore_cleanup_errors=True
            ) as made:
                new = RunFolder(Path(made) / "run")
                new.path.mkdir(mode=0o700)
                new.write_config(conf, command)
                if not rename_new(new.path, path):
                    raise name_taken(name, path)
        except OSError as error:
            fault = disk_error(error, "write", shown(path.parent))
            raise ConfigError(
                "MDW-182",
                f"run.output={shown(conf.run.output)}: {fault.message}",
                f"Choose a folder that can be written. {fault.hint}",
            ) from error
        return RunFolder(path)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.path.name

    @property
    def known_as(self) -> str:
        """What `run.resume` and the verbs take: the id, or the path where it lies elsewhere."""
        return known_as(self.path)

    @property
    def logs(self) -> Path:
        """Where what would disturb the terminal goes."""
        logs = self.path / "logs"
        make_folder(logs)
        return logs

    def write_config(self, conf: Conf, command: str) -> None:
        """Write the resolved configuration, with the command that gave it as a comment."""
        head = "".join(f"# {line}\n" for line in command.splitlines())
        write_atomic(
            self.path / "config.yaml", head + yaml.safe_dump(asdict(conf), sort_keys=False)
        )

    def config_digest(self) -> str:
        """Return the SHA-256 of `config.yaml` below the comment of its first lines."""
        return config_digest(self.path)

    def write_result(self, result: RunResult) -> None:
        """Write `result.json` as it stands."""
        write_atomic(self.path / "result.json", result.to_json())

    def write_model(self, kept: Kept, result: RunResult, rounds: Overview, digest: str) -> None:
        """Write the model as safetensors with its card, and note both in the result.

        `digest` is the tensors' own (`strategies.wire.digests.arrays_digest`): the file's also covers the
        run's name.
        """
        data = weights_as_bytes(kept.arrays, {"run_id": self.run_id})
        make_folder(self.path / "model")
        write_atomic(self.path / "model/model.safetensors", data)
        result.model = {
            "path": "model/model.safetensors",
            "round": kept.round,
            "sha256": hashlib.sha256(data).hexdigest(),
            "digest": digest,
            "parameters": sum(math.prod(array.shape) for array in kept.arrays.values()),
        }
        write_atomic(self.path / "model/card.md", card(result, rounds))


def config_digest(folder: Path) -> str:
    """Return the SHA-256 of a run's `config.yaml`, without the commands that stand above it as a
    comment; empty where there is none.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        return ""
    lines = path.read_bytes().splitlines(keepends=True)
    start = next((n for n, line in enumerate(lines) if not line.startswith(b"#")), len(lines))
    return hashlib.sha256(b"".join(lines[start:])).hexdigest()


def find(run: str, output: str = "outputs") -> RunFolder:
    """Return the folder of a run given by id or path.

    Raises ConfigError MDW-183 where there is none.
    """
    return RunFolder(folder_of(run, output))
