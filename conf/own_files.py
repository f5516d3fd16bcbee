"""Hydra's way to the files of a folder that somebody brings (`--config-dir`): read as YAML 1.2, as
every file that people write is (`conf.plain_yaml`).

Hydra's own reader of folders follows YAML 1.1, where `010` is 8. It stays what it is, for a program
around us that uses Hydra as well: ours has a scheme of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from omegaconf import OmegaConf

from conf import plain_yaml

SCHEME: Final = "yaml"
_OF_HYDRA: Final = "file://"
_HEADER: Final = 512
"""Characters in which Hydra looks for `# @package`."""


class OwnFiles(FileConfigSource):
    """A folder of YAML files."""

    @staticmethod
    def scheme() -> str:
        """Return what an address of such a folder begins with."""
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """Return one file's content, with what its first lines say to Hydra.

        Raises ConfigLoadError where there is none, yaml.YAMLError for what is no YAML.
        """
        path = Path(self.path, self._normalize_file_name(config_path)).resolve()
        if not path.exists():
            raise ConfigLoadError(f"Config not found : {path}")
        text = path.read_text(encoding="utf-8")
        content = plain_yaml.load(text, str(path))
        return ConfigResult(
            config=OmegaConf.create({} if content is None else content),
            path=f"{SCHEME}://{self.path}",
            provider=self.provider,
            header=self._get_header_dict(text[:_HEADER]),
        )


def register() -> None:
    """Let Hydra know of the scheme."""
    Plugins.instance().register(OwnFiles)


def address(folder: str) -> str:
    """Return a folder, or Hydra's address of one, as an address that is read here.

    An address of another kind (`pkg://`) is returned as it is.
    """
    if "://" not in folder:
        return f"{SCHEME}://{Path(folder).resolve()}"
    if folder.startswith(_OF_HYDRA):
        return f"{SCHEME}://{folder.removeprefix(_OF_HYDRA)}"
    return folder
