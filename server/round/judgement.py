"""What admission says of a reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from server.round.sketch import Sketch


@dataclass(frozen=True)
class Admitted:
    """A reply that may be aggregated.

    `norm` is the L2 norm of (update - global model) over all arrays of floats, None for metrics
    alone. `withheld` says of an evaluation that the silo's owner keeps something back,
    and `without` which metrics. `weight` is what an update weighs in the mean, `sketch` a small
    picture of its change, `largest` by record and array how large it is
    (`server.round.sent_model`), `digest` that of its arrays as they travelled, and `size` their
    bytes.
    """

    examples: int
    norm: float | None = None
    withheld: bool = False
    without: frozenset[str] = frozenset()
    weight: int = field(default=0, compare=False)
    sketch: Sketch | None = field(default=None, compare=False, repr=False)
    largest: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict, compare=False, repr=False
    )
    digest: str = field(default="", compare=False)
    size: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Rejected:
    """A reply that is left out: a code of docs/errors.md, a sentence that names the silo; of an
    update with arrays that can be read their digest.
    """

    code: str
    reason: str
    digest: str = field(default="", compare=False)


Verdict = Admitted | Rejected


class AdmissionFault(ValueError):
    """What is wrong with a reply; `Admission.check` turns it into `Rejected`."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
