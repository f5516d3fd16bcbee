"""What a check found: a table of lines, each ok, a warning or an error, with a way out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from conf.errors import AzureError, MeadowError

OK, WARNING, ERROR = "ok", "warning", "error"


@dataclass(frozen=True)
class Finding:
    """One line of the table: where, what was looked at, how it stands, what was seen, and what to do."""

    place: str
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
        """Return the lines that keep a launch from working."""
        return [row for row in self.rows if row.state == ERROR]

    def refuse(self) -> None:
        """Raise AzureError MDW-813 where there are errors."""
        if self.errors:
            what = "; ".join(f"{row.place}, {row.check}: {row.seen}" for row in self.errors[:3])
            more = f" (and {len(self.errors) - 3} more)" if len(self.errors) > 3 else ""
            raise AzureError(
                "MDW-813", f"Not launched: {what}{more}.", "See all of it with meadow check."
            )

    def lines(self) -> list[str]:
        """Return the table as text, each error or warning with its way out below it."""
        widths = [
            max([len(getattr(row, name)) for row in self.rows] or [0])
            for name in ("place", "check", "state")
        ]
        found = []
        for row in self.rows:
            cells = [
                getattr(row, name).ljust(w)
                for name, w in zip(("place", "check", "state"), widths, strict=True)
            ]
            found.append("  ".join([*cells, row.seen]).rstrip())
            if row.state != OK and row.fix:
                found.append(f"{'':{widths[0]}}  -> {row.fix}")
        return found


def tried(place: str, what: str, look: Callable[[], str], *, security: bool = False) -> Finding:
    """Return what a look found, or the error that it ended with."""
    try:
        return Finding(place, what, seen=look())
    except MeadowError as error:
        return failed(place, what, error, security=security)
    except OSError as error:
        return Finding(
            place, what, ERROR, f"{error.filename}: {error.strerror}", "Name a file that is there."
        )


def failed(place: str, what: str, error: MeadowError, *, security: bool = False) -> Finding:
    """Return an error as a line."""
    return Finding(
        place,
        what,
        ERROR,
        f"{error.code} {error.message.rstrip('.')}",
        error.hint,
        security=security,
    )
