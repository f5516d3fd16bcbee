"""What is looked at before torch is imported: a mistake that is cheap to see is told at once.

Nothing here imports torch or Flower; `tests/server/run/test_start_checks.py` holds it to that. Each
check is the one that the run itself makes later, so that both say the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from client.registry import check_registered
from conf.errors import ConfigError
from conf.resume import folder_of
from conf.schema import Conf, is_outside

MODEL: Final = "model/model.safetensors"
"""Where a finished run's model is in its folder."""


def check_start(conf: Conf) -> None:
    """Raise what a run of this configuration would be refused for.

    ConfigError: MDW-102 no such task, MDW-181 the run's name is taken, MDW-183 and MDW-184 the first
    weights are not there.
    """
    if not is_outside(conf.task.name):
        check_registered("tasks", conf.task.name, "task")
    if conf.run.resume:
        return  # its folder is there, and its weights are those of its checkpoint
    first_weights_file(conf)
    if conf.run.name is not None:
        check_free(conf.run.name, Path(conf.run.output) / conf.run.name)


def check_free(name: str, path: Path) -> None:
    """Raise ConfigError MDW-181 where a run's folder is taken; one that is empty is not."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        raise name_taken(name, path)


def name_taken(name: str, path: Path) -> ConfigError:
    """Return the error for a run's name that another run has; `path` is that one's folder."""
    what = f"run.name={name}: {path} exists already."
    hint = f"Choose another, or run.resume={known_as(path)}."
    return ConfigError("MDW-181", what, hint)


def known_as(path: Path) -> str:
    """Return what `run.resume` and the verbs take: the id, or the path where it lies elsewhere."""
    return path.name if path == Path("outputs") / path.name else str(path)


def first_weights_file(conf: Conf) -> Path | None:
    """Return the file that `model.init` means; None where the first weights are seeded.

    Raises ConfigError: MDW-183 for a run that is not there, MDW-184 for a missing file.
    """
    init = conf.model.init
    if init is None:
        return None
    is_file = init.endswith(".safetensors")
    path = Path(init) if is_file else folder_of(init, conf.run.output) / MODEL
    check_weights(path, f"model.init={init}")
    return path


def check_weights(path: Path, source: str) -> None:
    """Raise ConfigError MDW-184 where there is no file of weights; `source` names what asked."""
    if not path.is_file():
        what = f"{source}: there is no file {path}."
        raise ConfigError("MDW-184", what, "Give a .safetensors file or a finished run.")
