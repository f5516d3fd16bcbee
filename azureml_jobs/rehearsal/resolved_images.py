"""Images whose packages a resolver finds for the Python of their declared base.

Only metadata is read, and nothing is installed. Where no index is reached, or a base is not
declared, nothing is known and the job runs; `unknown` says of how many images that is so.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from azureml_jobs.environments.bases import Base, base_of
from azureml_jobs.environments.image_packages import Resolution, resolve
from azureml_jobs.rehearsal.images import Build
from azureml_jobs.rehearsal.mounts import Mounts
from azureml_jobs.rehearsal.resources import Resources

Resolve = Callable[[Path, Base, Mapping[str, str]], Resolution]


@dataclass
class ResolvedImages:
    """The images of a cloud; each environment is looked at once, as Azure builds it once.

    `variables` are those of before anybody was led to the loopback cloud: an index is outside.
    """

    resources: Resources
    mounts: Mounts
    variables: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    resolve: Resolve = resolve
    unknown: list[str] = field(default_factory=list)
    _builds: dict[str, Build] = field(default_factory=dict)
    _resolutions: dict[str, Resolution] = field(default_factory=dict)
    """By what an image's folder holds: silos in several workspaces have the same one."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def build(self, environment_id: str) -> Build:
        """See `Images`."""
        # One at a time: jobs that are sent together share an image.
        with self._lock:
            key = environment_id.lower()
            if key not in self._builds:
                self._builds[key] = self._looked_at(environment_id)
            return self._builds[key]

    def _looked_at(self, environment_id: str) -> Build:
        version = self.resources.get(environment_id) or {"properties": {}}
        context = (version["properties"].get("build") or {}).get("contextUri")
        if not context:
            # An image by its name: somebody has built it.
            return Build("")
        with tempfile.TemporaryDirectory(prefix="meadow-image-") as folder:
            self.mounts.uploaded(str(context), Path(folder))
            base = base_of(Path(folder))
            if base is None:
                self.unknown.append(environment_id)
                return Build("Its base is not declared in bases.yaml, so nothing is known of it.\n")
            content = _digest(Path(folder))
            if content not in self._resolutions:
                self._resolutions[content] = self.resolve(Path(folder), base, self.variables)
            resolution = self._resolutions[content]
        begin = f"FROM {base.reference} (Python {base.python}, {base.platform})\n"
        if resolution.refused:
            return Build(f"{begin}{resolution.log}\n", failed=True)
        if not resolution.asked:
            self.unknown.append(environment_id)
            return Build(f"{begin}No index was reached: {resolution.log}\n")
        return Build(f"{begin}{len(resolution.versions)} packages resolve.\n")


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            digest.update(f"{name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
