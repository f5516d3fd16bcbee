"""The card that goes with a model: what it is, what it learned from, how good it is, where it comes
from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from server.report.decisions import (
    confidence_in_words,
    decision_rows,
    group_rows,
    interval,
    ranking_rows,
    where_of,
)
from server.report.headline import EXAMPLES
from server.report.overview import NUM_EXAMPLES, Overview, SiloOverview
from server.report.software_table import mixed_software, software_table
from server.run.privacy_spent import sentences
from server.run.result import Baseline, RunResult
from server.run.shown import CENTRAL, direction, in_order, partial_sentence, score, value_of

DIGITS = 4
"""Decimals of a metric."""
MOST_ROWS = 20
"""Silos that get a row; of more, the card holds the sum and result.json the rest."""
ENDED = {
    "finished": "The run went to its last round.",
    "stopped_early": "The run stopped early, as configured, when its metric no longer improved.",
    "interrupted": "The run was interrupted: this is the model of its last closed round.",
    "failed": "The run failed: this is the model of its last closed round.",
}


def card(result: RunResult, rounds: Overview) -> str:
    """Return a model's card as Markdown; it holds names, counts and metrics, no examples."""
    sections = {
        f"# {plain(result.task)}, trained by {_count(len(result.silos), 'silo')}": _what(result),
        "## Data": _data(result, rounds),
        "## Training": _training(result, rounds),
        "## Metrics on test examples": _metrics(result),
        **_decisions(result),
        "## Limits": _limits(result),
        "## Provenance": [*_provenance(result), *_software(result)],
    }
    return "\n".join(f"{title}\n\n" + "\n".join(lines) + "\n" for title, lines in sections.items())


def plain(text: str) -> str:
    """Return others' text as one line that Markdown shows as it is."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return "".join("\\" + c if c in "\\`*_[]<>|#" else c for c in line)


def _what(result: RunResult) -> list[str]:
    model = result.model
    classes = ", ".join(map(plain, result.classes))
    return [
        f"A model for the task {plain(result.task)} with {model.get('parameters', 0):,} parameters, in safetensors"
        f"{f', that tells {len(result.classes)} classes apart: {classes}' if classes else ''}.",
        "",
        "```python",
        "import meadow",
        "",
        f'model = meadow.load_model("{_code(result.folder or result.run_id)}")',
        "```",
    ]


def _data(result: RunResult, rounds: Overview) -> list[str]:
    rows = []
    for silo in result.silos[:MOST_ROWS]:
        seen = rounds.silos.get(silo, SiloOverview())
        tested = result.test.metrics.get(silo, {}) if result.test else {}
        examples = (seen.examples, seen.validation, tested.get(NUM_EXAMPLES))
        rows.append((plain(silo), *(_whole(count) for count in examples)))
    table = _table(("silo", "training examples", "validation examples", "test examples"), rows)
    left_out = len(result.silos) - len(rows)
    more = [f"\nand {left_out} more silos."] if left_out else []
    return [
        "Each silo's examples were used by that silo's own training only; what left it were updates.",
        "",
        *table,
        *more,
    ]


def _training(result: RunResult, rounds: Overview) -> list[str]:
    return [
        f"- {_count(result.rounds, 'round')} with the strategy {plain(result.strategy)}, seed {result.seed}",
        f"- {ENDED.get(result.status, 'The run was still running.')}",
        f"- replies that failed or were refused: {rounds.failures}",
    ]


def _metrics(result: RunResult) -> list[str]:
    lines = []
    if result.baseline is not None:
        lines += [
            f"On all silos' {EXAMPLES} together:",
            "",
            *_compared(result, result.baseline),
            "",
        ]
    names = [
        name
        for name in in_order(result.shown, result.final)
        if value_of(result.final, name) is not None
    ]
    if names:
        rows = [_metric(result, name) for name in names]
        head = ["metric", "value", "better"]
        if any(interval(result.test, name) for name in names):
            rows = [(*row, interval(result.test, n)) for row, n in zip(rows, names, strict=True)]
            head.append("95 % interval")
        lines += [
            f"At the end of the run, once, on all silos' {EXAMPLES} together (`central_`: on the"
            " task's own test set):",
            "",
            *_table(head, rows),
        ]
    partial = partial_sentence(result.test)
    if partial:
        lines += ["", plain(partial)]
    return lines or ["None were measured."]


def _decisions(result: RunResult) -> dict[str, list[str]]:
    """Return the section on how the model decides; none where nothing is ranked."""
    test = result.test
    if test is None or not test.details.get("classes"):
        return {}
    head = ("class", "examples", "AUROC", "AUPRC", "calibration error", "at the temperature")
    ranked = [
        (plain(row.name), row.examples, str(row.auroc), str(row.auprc), row.error, row.calibrated)
        for row in ranking_rows(test)
    ]
    lines = [f"On {where_of(test)}; 95 % intervals in brackets:", ""]
    lines += _table(head, ranked)
    sure = confidence_in_words(test)
    lines += ["", sure] if sure else []
    groups = [
        (plain(row.name), row.examples, str(row.accuracy), str(row.auroc))
        for row in group_rows(test)
    ]
    if groups:
        lines += ["", "By group:", "", *_table(("group", "examples", "accuracy", "AUROC"), groups)]
    chosen = decision_rows(test)
    if chosen:
        titles = ("says yes to", "chosen for", "from probability", "sensitivity", "specificity")
        rows = [
            (plain(row.name), row.rule, row.probability, str(row.sensitivity), str(row.specificity))
            for row in chosen
        ]
        lines += ["", "The operating point was chosen on validation examples:", ""]
        lines += _table(titles, rows)
    temperature = test.chosen.get("temperature")
    if temperature is not None:
        lines += ["", f"Scores are divided by {temperature:.4g}, also from validation examples."]
    return {"## How it decides": lines}


def _compared(result: RunResult, baseline: Baseline) -> list[str]:
    """Return the models beside each other, as lines of a table."""
    models = [("federated: this model", baseline.federated)]
    alone = [(f"{plain(silo)} alone", scores) for silo, scores in baseline.silo_alone.items()]
    models += alone[:MOST_ROWS]
    if baseline.centralised:
        models.append(("all data pooled", baseline.centralised))
    names = in_order(result.shown, baseline.federated.union)
    rows = [
        (model, *(score(scores.union, name, DIGITS) for name in names)) for model, scores in models
    ]
    return _table(("model", *map(plain, names)), rows)


def _metric(result: RunResult, name: str) -> tuple[str, ...]:
    return plain(name), score(result.final, name, DIGITS), _direction(result, name)


def _direction(result: RunResult, name: str) -> str:
    """Return which way a metric is better, where the task says so."""
    own = name.removeprefix(CENTRAL)
    return direction(result.shown, own).partition(" ")[0] if own in result.shown else ""


def _limits(result: RunResult) -> list[str]:
    privacy = ". ".join(map(plain, sentences(result.privacy)))
    return [
        "- The metrics hold for data like that of these silos; on any other the model was not tried.",
        "- Means hide differences between silos and classes; `result.json` and `report.html` show each silo's metrics.",
        f"- Privacy: {privacy}."
        if privacy
        else "- No privacy guarantee is claimed: a model can reveal something of its examples.",
    ]


def _provenance(result: RunResult) -> list[str]:
    facts = [
        ("run", result.run_id),
        ("command", result.command),
        ("model file SHA-256", result.model.get("sha256", "")),
        ("tensors SHA-256", result.model.get("digest", "")),
        ("configuration SHA-256", result.config_digest),
        ("code that must agree SHA-256", result.environment.get("code", "")),
        ("server's tree SHA-256", result.environment.get("tree", "")),
        ("code from outside the tree", _outside(result.environment.get("outside", {}))),
        ("started", result.started),
        (
            "versions",
            ", ".join(f"{name} {v}" for name, v in result.environment.get("versions", {}).items()),
        ),
    ]
    return [f"- {name}: `{_code(value)}`" for name, value in facts if value]


def _outside(digests: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {digest}" for name, digest in digests.items())


def _software(result: RunResult) -> list[str]:
    """Return what the silos said that they ran, and whether it is the same where bits depend on it."""
    titles, rows = software_table(result.software)
    if not rows:
        return []
    lines = ["", "What the silos said that they ran:", ""]
    lines += _table(("silos", *titles), [[plain(cell) for cell in row] for row in rows])
    mixed = mixed_software(result.software)
    return [*lines, "", plain(mixed)] if mixed else lines


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    line = "|---|" + "---:|" * (len(head) - 1)
    return [f"| {' | '.join(head)} |", line, *(f"| {' | '.join(row)} |" for row in rows)]


def _code(text: str) -> str:
    """Return text that can stand between back quotes."""
    return " ".join("".join(c if c.isprintable() and c != "`" else " " for c in text).split())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _whole(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:,.0f}"
