"""What a check found: a table of lines, each ok, a warning or an error, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from conf.errors import AzureError, MeadowError

OK: Final = "ok"
WARNING: Final = "warning"
ERROR: Final = "error"
SHOWN_ERRORS: Final = 3


@dataclass(frozen=True)
class Finding:
    """One line: part of the federation, what was checked, state, what was seen, what to do."""

    part: str
    check: str
    state: str = OK
    seen: str = ""
    fix: str = ""
    security: bool = False


@dataclass
class Table:
    """Findings in the order in which they were made."""

    rows: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """Return the lines that would make a launch fail."""
        return [row for row in self.rows if row.state == ERROR]

    def refuse(self) -> None:
        """Raise AzureError MDW-813 where there are errors."""
        if not self.errors:
            return
        shown = [f"{row.part}, {row.check}: {row.seen}" for row in self.errors[:SHOWN_ERRORS]]
        message = f"Not launched: {'; '.join(shown)}"
        if len(self.errors) > len(shown):
            message += f" (and {len(self.errors) - len(shown)} more)"
        raise AzureError("MDW-813", f"{message}.", "See all of it with meadow check.")

    def lines(self) -> list[str]:
        """Return the table as text, with what to do below each error or warning."""
        part_width = max((len(row.part) for row in self.rows), default=0)
        check_width = max((len(row.check) for row in self.rows), default=0)
        state_width = max((len(row.state) for row in self.rows), default=0)
        lines = []
        for row in self.rows:
            line = f"{row.part:{part_width}}  {row.check:{check_width}}  {row.state:{state_width}}"
            lines.append(f"{line}  {row.seen}".rstrip())
            if row.state != OK and row.fix:
                lines.append(f"{'':{part_width}}  -> {row.fix}")
        return lines


def tried(part: str, check: str, look: Callable[[], str], *, security: bool = False) -> Finding:
    """Return what `look` saw, or the error that it raised."""
    try:
        return Finding(part, check, seen=look())
    except MeadowError as error:
        return failed(part, check, error, security=security)
    except OSError as error:
        seen = f"{error.filename}: {error.strerror}"
        return Finding(part, check, ERROR, seen, "Name a file that exists.")


def failed(part: str, check: str, error: MeadowError, *, security: bool = False) -> Finding:
    """Return an error as a line."""
    seen = f"{error.code} {error.message.rstrip('.')}"
    return Finding(part, check, ERROR, seen, error.hint, security=security)
