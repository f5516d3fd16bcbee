"""The card that goes with a model: what it is, what it learned from, how good it is, where it comes from."""

from __future__ import annotations

from server.result import Metrics, RunResult


def card(result: RunResult) -> str:
    """Return a model's card as Markdown; it holds names, counts and metrics, no examples."""
    model, environment = result.model, result.environment
    lines = [
        f"# {result.task}, trained by {len(result.silos)} silos",
        "",
        f"Run `{result.run_id}`, {result.strategy}, {len(result.rounds)} rounds, seed {result.seed}: {result.status}.",
        "",
        "## Model",
        f"- {model.get('parameters', 0):,} parameters, safetensors, SHA-256 `{model.get('sha256', '')}`",
        f"- classes: {', '.join(result.classes) or 'not recorded'}",
        "",
        "## Data",
        f"- silos: {', '.join(result.silos)}; their examples never left them",
        *[f"- {silo}: {sum(counts):,} training examples" for silo, counts in result.partition.items()],
        "",
        "## Held-out metrics",
        *_metrics("mean over silos, weighted by examples", result.final),
        *_baseline(result),
        "",
        "## Limits",
        "- The metrics hold for data like that of these silos; for any other the model was not tried.",
        "- No privacy guarantee is claimed." if not result.privacy else f"- Privacy: {result.privacy}",
        "",
        "## Provenance",
        f"- command: `{result.command}`" if result.command else "- command: not recorded",
        f"- configuration SHA-256 `{result.config_digest}`, code SHA-256 `{environment.get('code', '')}`",
        f"- versions: {', '.join(f'{n} {v}' for n, v in environment.get('versions', {}).items())}",
    ]
    return "\n".join(lines) + "\n"


def _baseline(result: RunResult) -> list[str]:
    if result.baseline is None:
        return []
    rows = [("federated", result.baseline.federated.union)]
    rows += [(f"{silo} alone", scores.union) for silo, scores in result.baseline.silo_alone.items()]
    if result.baseline.centralised:
        rows.append(("all data pooled", result.baseline.centralised.union))
    return [line for name, metrics in rows for line in _metrics(f"{name}, all silos' held-out examples", metrics)]


def _metrics(what: str, metrics: Metrics) -> list[str]:
    values = ", ".join(f"{name} {value:.4f}" for name, value in sorted(metrics.items()) if value is not None)
    return [f"- {what}: {values}"] if values else []
