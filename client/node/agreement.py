"""Whether a silo takes part in a run of a server: the same wire, then the same code, or one that
its owner accepts.

MDW-331 a run of other code    MDW-338 another version of the wire
"""

from __future__ import annotations

from collections.abc import Iterable

from conf.border import field
from conf.code_digest import release_digest, run_digest
from conf.errors import MeadowError, SiloError
from conf.schema import Silo
from strategies.wire import protocol
from strategies.wire.run_code import RunCode


def refusal(
    headers: Iterable[tuple[str, str]], silo: Silo, *, foreign_runs: bool
) -> MeadowError | None:
    """Return why the silo takes no part in the run that a server describes so, None where it does.

    With `foreign_runs` a run without a description, that of stock Flower, is taken part in.
    """
    try:
        _check(RunCode.from_headers(headers), silo, foreign_runs)
    except MeadowError as error:
        return error
    return None


def _check(theirs: RunCode | None, silo: Silo, foreign_runs: bool) -> None:
    if theirs is None:
        if foreign_runs:
            return
        raise SiloError(
            "MDW-331",
            f"{silo.name} was asked to join a run that does not say its code.",
            "Start the silo with --foreign-runs, if a stock Flower server is meant.",
        )
    # First of all, and out of the owner's reach: two wires can't be told to understand each other.
    if theirs.wire != protocol.PROTOCOL:
        raise SiloError(
            "MDW-338",
            f"The server speaks version {theirs.wire} of the wire, {silo.name} version"
            f" {protocol.PROTOCOL}.",
            "Upgrade the older of the two: no list of accepted code helps here.",
            {"ours": protocol.PROTOCOL, "theirs": field(str(theirs.wire))},
        )
    # Before the run's own files are looked for: an accepted release may have named them otherwise.
    if {theirs.digest, theirs.release} & set(silo.policy.code):
        return
    ours = run_digest(theirs.files)
    if theirs.digest != ours:
        raise SiloError(
            "MDW-331",
            f"{silo.name} runs the code {ours[:12]} (release {release_digest()[:12]}), the run is of"
            f" {theirs.digest[:12]} (release {theirs.release[:12]}).",
            "Start both jobs from the same commit, or let the silo's owner add the release to"
            f" policy.code: {theirs.release}",
            {
                "ours": ours[:12],
                "our_release": release_digest()[:12],
                "theirs": field(theirs.digest[:12]),
                "their_release": field(theirs.release[:12]),
            },
        )
