"""A file that is drafted for its owner to read and correct: never written over another."""

from __future__ import annotations

from pathlib import Path

from conf.errors import ConfigError


def write_drafted(file: Path, lines: list[str]) -> None:
    """Write the lines of a draft; raises ConfigError MDW-127 where the file is there, or can't be
    written.
    """
    try:
        # "x": an owner's own file must not be written over.
        with open(file, "x", encoding="utf-8") as made:
            made.write("\n".join(lines) + "\n")
    except FileExistsError:
        hint = "Name another with file=, or delete it."
        raise ConfigError("MDW-127", f"{file} is here already.", hint) from None
    except OSError as error:
        hint = "Name another with file=."
        what = f"{file} can't be written: {error.strerror}."
        raise ConfigError("MDW-127", what, hint) from None
