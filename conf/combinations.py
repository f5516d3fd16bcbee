"""What combines with what: one table, for composing a run, for the docs and for a test of all pairs.

Every choice that decides how an update comes about is a value on an axis (`conf.combination_axes`).
Two values of different axes work together unless a row of `REFUSED` says why not; `NOTES` says what
to know where they do (`conf.combination_rules`).
`python -m conf.combinations` prints the part of docs/strategies.md that is made of this. A new
algorithm, or a new kind of privacy or compression, is a new value there; the test then trains a
round with each pair of it that is not refused.

    MDW-165 a combination that is refused
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Final

from conf.combination_axes import AXES, Value
from conf.combination_rules import NOTES, REFUSED, Rule
from conf.errors import ConfigError
from conf.schema import Conf, RunScope

Where = Callable[[str], str]
"""Says where a key got its value: a file, or the command line."""

ORDER: Final = (
    "The silo receives the model and what the algorithm sends beside it; arrays that the silo keeps"
    " are put back into the model.",
    "The task's output, then the algorithm's (`output`); the task's loss, then the algorithm's"
    " (`loss`).",
    "Gradients are added up over `trainer.accumulate` batches, and fp16's scale is taken off.",
    "The algorithm's change of the gradients (`gradients`): FedProx's term, SCAFFOLD's correction.",
    "Clipping (`trainer.clip_norm`).",
    "The optimizer's step, with weight decay and momentum.",
    "The algorithm's end: what is sent beside the model, and what stays at the silo.",
    "The change's clipping (`privacy=silo_dp` and `local_dp`), and the noise of `local_dp`.",
    "The change of what was trained is encoded (`compression`); what a codec leaves out stays at the"
    " silo.",
    "At the server: decoding, admission of what was decoded, the means, the noise of `silo_dp`, the"
    " algorithm's step (`after`).",
)
"""In which order the parts of a combination act."""


def pairs() -> Iterator[tuple[Value, Value]]:
    """Yield every two values of different axes."""
    for first, second in combinations(AXES, 2):
        for a in first.values:
            for b in second.values:
                yield a, b


def refusal(a: Value, b: Value) -> Rule | None:
    """Return why two values do not work together, None where they do."""
    return next((rule for rule in REFUSED if rule.is_of(a, b)), None)


def refused_precisions(scope: Conf | RunScope) -> dict[str, Rule]:
    """Return the precisions that what a run combines can't be trained in, each with the reason."""
    (axis,) = [axis for axis in AXES if axis.name == "precision"]
    others = [other.chosen(scope) for other in AXES if other is not axis]
    found = {}
    for precision in axis.values:
        for value in others:
            rule = None if value is None else refusal(precision, value)
            if rule is not None:
                found[precision.name] = rule
    return found


def check(conf: Conf, where: Where) -> None:
    """Raise ConfigError MDW-165 where a configuration combines what is refused."""
    chosen = [(axis.key, value) for axis in AXES if (value := axis.chosen(conf)) is not None]
    for (first, a), (second, b) in combinations(chosen, 2):
        rule = refusal(a, b)
        if rule is not None:
            raise ConfigError(
                "MDW-165",
                f"{a.name} ({where(first)}) does not combine with {b.name}"
                f" ({where(second)}): {rule.why}.",
                rule.hint,
            )


def page() -> str:
    """Return the part of docs/strategies.md that this table makes."""
    lines = ["| | values | how they are written |", "|---|---|---|"]
    for axis in AXES:
        names = ", ".join(value.name for value in axis.values)
        written = ", ".join(f"`{value.written}`" for value in axis.values)
        lines.append(f"| {axis.name} | {names} | {written} |")
    lines += ["", "| refused | with | because |", "|---|---|---|"]
    lines += [f"| {rule.first} | {rule.second} | {rule.why} |" for rule in REFUSED]
    lines += ["", "| works | with | and |", "|---|---|---|"]
    lines += [f"| {rule.first} | {rule.second} | {rule.why} |" for rule in NOTES]
    lines += ["", "In this order:", ""]
    lines += [f"{number}. {step}" for number, step in enumerate(ORDER, 1)]
    return "\n".join(lines)


if __name__ == "__main__":
    print(page())
