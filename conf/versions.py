"""What is written to last carries its version; this is the one place where a version is read and
judged.

MDW-505 written by another version     MDW-506 damaged: not JSON, or a value is missing or of another kind
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from conf.errors import CheckpointError

Raw = dict[str, Any]
Migration = Callable[[Raw], Raw]

VERSION_KEY: Final = "version"


@dataclass(frozen=True)
class Format:
    """One kind of file or record: its name in messages and the version that this Meadow writes.

    `migrations` turn what was written by version n into what version n + 1 holds. `damaged` is the
    code for what can't be read, `fix` what to do about it, `key` where the version stands.
    """

    name: str
    version: int
    damaged: str = "MDW-506"
    fix: str = "Restore it from a copy."
    key: str = VERSION_KEY
    migrations: Mapping[int, Migration] = field(default_factory=dict)

    @property
    def stamp(self) -> dict[str, int]:
        """The entry that a new record begins with."""
        return {self.key: self.version}

    def loads(self, text: bytes | str, where: object) -> Raw:
        """Return the JSON object in a text, as this version writes it.

        Raises CheckpointError: MDW-505 for another version, `damaged` for what is not JSON or has
        no version.
        """
        with self.reading(where):
            raw = json.loads(text)
        return self.checked(raw, where)

    def checked(self, raw: object, where: object) -> Raw:
        """Return an object that was read from JSON, as this version writes it.

        Raises as `loads` does.
        """
        if not isinstance(raw, dict):
            raise self.fault(where, f"it holds a {type(raw).__name__}, not an object")
        version = raw.get(self.key)
        # True is an int in Python, and is not a version.
        if type(version) is not int:
            raise self.fault(where, f"it has no {self.key}")
        while version != self.version:
            migration = self.migrations.get(version)
            if migration is None:
                raise self.of_another_version(where, version)
            with self.reading(where):
                raw = migration(raw)
            version += 1
        return raw | self.stamp

    @contextlib.contextmanager
    def reading(self, where: object) -> Iterator[None]:
        """Turn what a missing key, a value of another kind or a broken text raises into one error,
        `damaged`.
        """
        try:
            yield
        except CheckpointError:
            raise
        except KeyError as error:
            raise self.fault(where, f"{error} is missing") from error
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise self.fault(where, str(error) or type(error).__name__) from error

    def fault(self, where: object, why: str) -> CheckpointError:
        """Return the error for what can't be read."""
        return CheckpointError(
            self.damaged, f"{where} is not a readable {self.name}: {why[:200]}.", self.fix
        )

    def of_another_version(self, where: object, version: int) -> CheckpointError:
        """Return the error that names both versions."""
        newer = version > self.version
        hint = "Update Meadow." if newer else "Use the release of Meadow that wrote it."
        return CheckpointError(
            "MDW-505",
            f"{where} is a {self.name} of version {version}; this Meadow reads version {self.version}.",
            hint,
        )
