"""What runs a simulation on one machine, and where metrics go."""

from __future__ import annotations

from dataclasses import dataclass

from conf.fields import MOST_THREADS, number, one_of, text, value


@dataclass
class SimulationConf:
    """What runs the silos on one machine: Meadow's pool of workers, or Flower's engine on Ray."""

    engine: str = one_of(
        "pool", "ray", help="pool: Meadow's own workers; ray: Flower's engine", also=("backend",)
    )
    workers: int | None = number(
        None,
        at_least=0,
        at_most=MOST_THREADS,
        help="processes that train; null = one a core; 0 = in this process (pool)",
        also=("num_workers", "processes"),
    )
    gpus: int | None = number(
        None,
        at_least=0,
        at_most=MOST_THREADS,
        help="GPUs that these processes share evenly: the first so many; null = all that are visible; "
        "0 = none",
        also=("num_gpus",),
    )
    ray_address: str | None = value(
        None, help="an existing Ray cluster; null = a private one (ray)", also=("address",)
    )
    ray_insecure: bool = value(
        False,
        help="use such a cluster also where it asks nobody for a token: whoever reaches it can run "
        "code there",
    )
    malloc: bool = value(
        True, help="glibc thresholds that keep activations mapped (docs/benchmarks.md)"
    )


@dataclass
class TrackingConf:
    """Where metrics and messages go beside the run's own folder."""

    mlflow: str = one_of(
        "off",
        "local",
        "environment",
        help="off, a local file store, or where MLflow's environment variables say",
    )
    experiment: str = value(
        "meadow", help="MLflow's experiment; in a job of Azure ML, the job's own is used"
    )
    register: bool = value(
        False, help="the finished run's model becomes a version in MLflow's model registry"
    )
    model: str | None = text(
        None,
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}",
        "ASCII letters, digits, '.', '-' and '_'",
        help="the name that it is registered under; null = <federation.name>-<task.name>",
    )
    otlp: str = one_of(
        "off",
        "environment",
        help="push metrics of rounds, silos and links with OpenTelemetry to where its own environment "
        "variables say",
        also=("opentelemetry", "prometheus"),
    )
    webhook: str = one_of(
        "off",
        "environment",
        help="tell the address in MEADOW_WEBHOOK when a silo or the quorum is lost, and when the run "
        "ends",
        also=("slack", "teams", "notify", "alert"),
    )
