"""Which process a job is: a pid alone may be another's by now, and a time of birth by the clock moves
whenever the clock is set.

On Linux a process is named by the boot it belongs to and the kernel's ticks from that boot to its
start: neither depends on the clock. Elsewhere by its time of birth, which the system notes once.
"""

from __future__ import annotations

import psutil

from conf.process_birth import birth, boot

Identity = list[str | int]
"""A pid, and what tells its process from any other that ever had it; as it stands in JSON."""


def identity_of(pid: int) -> Identity:
    """Return the identity of a process, also of one that has just ended and that nobody waited for.

    Raises psutil.NoSuchProcess.
    """
    return [pid, _birth(pid)[0]]


def process_of(identity: object) -> psutil.Process | None:
    """Return the process of an identity while it lives; None without an identity.

    Raises ValueError for what is none.
    """
    if identity is None:
        return None
    if not isinstance(identity, list) or len(identity) != 2:
        raise ValueError("an identity is a pid and a birth")
    try:
        pid = int(identity[0])
        # The process first: what is asked of it later is asked of the one that was compared.
        process = psutil.Process(pid)
        born, alive = _birth(pid)
    except psutil.NoSuchProcess:
        return None
    except (TypeError, OverflowError):
        raise ValueError("a pid is a number") from None
    return process if alive and born == identity[1] else None


def _birth(pid: int) -> tuple[str, bool]:
    """Return what tells a process from others of its pid, and whether it lives: a zombie does not.

    Raises psutil.NoSuchProcess.
    """
    started = boot()
    if started is None:
        process = psutil.Process(pid)
        return repr(process.create_time()), process.status() != psutil.STATUS_ZOMBIE
    found = birth(pid)
    if found is None:
        raise psutil.NoSuchProcess(pid)
    return f"{started}:{found[0]}", found[1]
