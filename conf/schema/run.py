"""How long a run lasts, when its rounds close, and what it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

from conf.fields import MOST_ROUNDS, MOST_SILOS, YEAR, number, one_of, section, text, value


@dataclass
class EarlyStopConf:
    """Stop when `metric` has not improved by `min_delta` for `patience` rounds."""

    metric: str | None = value(
        None,
        help="the validation metric that chooses, also for run.keep=best; null = the first that the "
        "task shows",
        also=("monitor",),
    )
    mode: str = one_of(
        "auto",
        "min",
        "max",
        help="whether less or more of the metric is better; auto = what the task says",
    )
    patience: int | None = number(
        None,
        at_least=1,
        at_most=MOST_ROUNDS,
        help="rounds without an improvement before the run ends; null = never",
    )
    min_delta: float = number(
        0.0, at_least=0, help="what the metric must change by to count as improved"
    )


@dataclass
class AdmissionConf:
    """What an update must be to count, beyond what can be averaged; a silo can't relax it."""

    norm_at_most: float | None = number(
        None,
        above=0,
        help="largest L2 norm of a silo's change of the model; null = any",
        also=("max_norm", "max_update_norm"),
    )
    norm_times_median: float | None = number(
        None,
        at_least=1,
        help="largest norm of a change, as a multiple of the median of `norm_median`; null = any",
    )
    norm_median: str = one_of(
        "last_round",
        "cohort",
        help="of which updates that median is: those of the last closed round (round 1 has only "
        "norm_at_most), or the round's own, for strategies that hold a list of them",
    )
    examples_at_most: int | None = number(
        None,
        at_least=1,
        help="examples that any silo may say it has, beside the number with which it was admitted "
        "(meadow keys admit); null = 536870911",
    )
    loss_at_most: float | None = number(
        None,
        above=0,
        help="largest mean loss that a silo may report, in training and evaluation; null = what the "
        "task says that its loss can be",
    )


@dataclass
class OperatingConf:
    """From which score on a model says yes: chosen at the end of a run, on validation examples."""

    rule: str = one_of(
        "specificity",
        "sensitivity",
        "alarms",
        "youden",
        help="what the threshold keeps: a specificity or sensitivity of `at` or more, at most `at` "
        "false positives in 1,000; youden = most of both together",
    )
    at: float = number(
        0.9,
        at_least=0,
        at_most=1000,
        help="a share, or for alarms the false positives in 1,000 examples",
    )


@dataclass
class RunConf:
    """How long a run lasts, when its rounds close, and what it leaves behind. Times in seconds."""

    rounds: int = number(
        5,
        at_least=1,
        at_most=MOST_ROUNDS,
        help="rounds of the run",
        also=("num_rounds", "num_server_rounds"),
    )
    seed: int = number(
        0,
        at_least=0,
        at_most=2**31 - 1,
        help="seed of all that is random: first weights, shuffling, who is asked",
        also=("random_state", "manual_seed"),
    )
    cohort: int | None = number(
        None,
        at_least=1,
        at_most=MOST_SILOS,
        help="silos asked in each round; null = all",
        also=("clients_per_round", "cohort_size", "fraction_train", "fraction_fit"),
    )
    quorum: int | None = number(
        None,
        at_least=1,
        at_most=MOST_SILOS,
        help="admitted updates that may close a round; null = more than half of the cohort",
        also=("min_train_nodes", "min_fit_clients"),
    )
    start_quorum: int | None = number(
        None,
        at_least=1,
        at_most=MOST_SILOS,
        help="silos that must be connected before round 1; null = all",
        also=("min_available_nodes", "min_available_clients"),
    )
    start_timeout: float = number(
        600.0,
        above=0,
        at_most=YEAR,
        help="seconds in which the silos of start_quorum must have connected; on Azure ML those in "
        "which a silo's job runs",
    )
    round_timeout: float = number(
        3600.0,
        above=0,
        at_most=YEAR,
        help="seconds after which a round closes if the quorum is there",
    )
    reconnect_patience: float = number(
        300.0,
        at_least=0,
        at_most=YEAR,
        help="seconds to wait for silos to come back where the quorum is lacking",
    )
    grace: float | None = number(
        None,
        at_least=0,
        at_most=YEAR,
        help="seconds after the quorum at which a round closes; null = wait for all",
    )
    baseline: str = one_of(
        "none",
        "silos",
        "pooled",
        "all",
        help="also train for comparison: each silo alone, one model on all data, or both",
    )
    admission: AdmissionConf = section(AdmissionConf)
    early_stop: EarlyStopConf = section(EarlyStopConf)
    operating: OperatingConf = section(OperatingConf)
    keep: str = one_of(
        "last",
        "best",
        help="the model that the run ends with: that of its last round, or of its best by validation",
        also=("checkpoint", "restore_best"),
    )
    test: str = one_of(
        "end",
        "rounds",
        help="when the task's own test set is scored: once at the end, or after each round too, for "
        "a curve that chooses nothing",
    )
    resume: str | None = value(
        None, help="resume this run: its id, or the path of its folder; null = a new run"
    )
    name: str | None = text(
        None,
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}",
        "ASCII letters, digits, '.', '-' and '_': it is a folder",
        help="the run's id; null = made of the date, the task and the strategy",
        also=("run_id", "run_name"),
    )
    output: str = text(
        "outputs",
        r"(?s).*\S.*",
        "the path of a folder",
        help="the folder in which each run gets a folder of its own",
        also=("output_dir",),
    )
