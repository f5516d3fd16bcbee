"""What a silo's owner permits, and what training may take of the silo's machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conf.fields import NAMED, NAMED_IN_WORDS, SHA256, YEAR, entries, number, one_of, size, value
from conf.schema.aggregation_kinds import WEAKEST_FIRST


@dataclass
class PolicyConf:
    """What a silo's owner lets run on the silo's data; in version 1 empty and None allow all, in
    version 2 nothing is allowed but what `allow` says.

    Checked at the silo (`client/policy.py`). It holds a run to what the run says of itself;
    what becomes of an update at the server can't be seen from a silo.
    """

    version: int = number(
        1,
        at_least=1,
        at_most=2,
        help="what may run: 2 = what `allow` says and nothing else, 1 = what no key here forbids",
    )
    allow: dict[str, Any] = entries(
        dict,
        help="values or a range for each key of a run (version 2); meadow policy draft writes it",
    )
    tasks: list[str] = entries(
        list, pattern=NAMED, wanted=NAMED_IN_WORDS, help="tasks that may run; empty = any"
    )
    models: list[str] = entries(list, group="model", help="models that may train; empty = any")
    strategies: list[str] = entries(
        list, group="strategy", help="strategies that may be used; empty = any"
    )
    epochs_at_most: int | None = number(
        None, at_least=1, help="epochs of a round; null = any number"
    )
    rounds_at_most: int | None = number(None, at_least=1, help="rounds of a run; null = any number")
    examples_at_least: int | None = number(
        None,
        at_least=1,
        help="examples to train on, with fewer of which the silo takes no part; null = any number",
    )
    evaluated_examples_at_least: int | None = number(
        None,
        at_least=1,
        help="examples of a split to evaluate on: a smaller one is answered as if empty; null = any "
        "number",
    )
    cells_at_least: int | None = number(
        None,
        at_least=2,
        help="smallest count that an evaluation tells; smaller ones are withheld, and the metric is "
        "called partial; null = all",
    )
    metrics_at_least: dict[str, int] = entries(
        dict,
        at_least=1,
        help="examples of a split that each metric needs to leave the silo, by its name; version 2: "
        "a metric that is not named does not leave; empty = all leave",
    )
    model_mib_at_most: int | None = number(
        None,
        at_least=1,
        help="largest model, in MiB of its weights; null = what the machine's memory takes",
    )
    message_mib_at_most: int | None = number(
        None, at_least=1, help="largest instruction, in MiB; null = half of the memory"
    )
    answers_at_most: int | None = number(
        None,
        at_least=1,
        help="answers that the silo gives, of all runs together (a round is two, statistics before "
        "it are one, and in version 1 so is whether it is ready); null = any number",
    )
    answers_days: int | None = number(
        None,
        at_least=1,
        at_most=36600,
        help="days, today included, of which answers_at_most counts the answers; null = all",
    )
    privacy_at_least: str = one_of(
        "none",
        "sample_dp",
        "silo_dp",
        "local_dp",
        help="the least privacy with which the silo trains: none = any; sample_dp and silo_dp are met "
        "by themselves and by local_dp",
    )
    unit_at_least: str = one_of(
        "example",
        "group",
        help="what must be protected as one, and what epsilon_at_most is of; group asks for "
        "privacy=sample_dp with privacy.unit=group, or local_dp",
    )
    epsilon_at_most: float | None = number(
        None,
        above=0,
        help="what all runs together may cost each unit (unit_at_least), counted in the silo's "
        "account; null = any; a number asks for privacy=sample_dp or local_dp too",
    )
    silo_epsilon_at_most: float | None = number(
        None,
        above=0,
        help="what all runs together may cost the silo as a whole, counted in its account; null = "
        "any; a number asks for privacy=silo_dp or local_dp too",
    )
    delta: float = number(
        1e-5, above=0, at_most=0.1, help="the delta at which these two are counted"
    )
    aggregation_at_least: str = one_of(
        *WEAKEST_FIRST,
        help="the aggregation that shows the server most of the silo's update; plain = all of it",
    )
    reveal_counts: bool = value(
        True,
        help="whether the server may learn how many examples there are; false needs weighting=equal",
    )
    train_alone: bool | None = value(
        None,
        help="whether the silo trains a model of its own for a run's comparison (run.baseline) and "
        "tells what its test makes of it; null = in version 1 yes, in version 2 no",
    )
    code: list[str] = entries(
        list,
        pattern=SHA256,
        wanted="a SHA-256 in hex",
        help="SHA-256 of releases (meadow version) whose runs are taken part in beside the silo's "
        "own",
    )


@dataclass
class TrainingProcessConf:
    """A process of its own in which a silo trains, and what it may take of the machine."""

    separate: bool = value(
        False,
        help="train in a process of its own: when it is killed or hangs, that costs the round alone",
    )
    memory: str | None = size(help="memory that this process may take; null = what the machine has")
    gpu_memory: float = number(
        1.0, above=0, at_most=1, help="share of each GPU's memory that this process may take"
    )
    seconds: float | None = number(
        None,
        above=0,
        at_most=YEAR,
        help="seconds in which it must have answered, or it is ended; null = any number",
    )
