"""What combines with what: one table, for composing a run, for the docs and for a test of all pairs.

Every choice that decides how an update comes about is a value on an axis. Two values of different
axes work together unless a row of `REFUSED` says why not; `NOTES` says what to know where they do.
`python -m conf.combinations` prints the part of docs/strategies.md that is made of this. A new
algorithm, or a new kind of privacy or compression, is a new value here; the test then trains a
round with each pair of it that is not refused.

    MDW-165 a combination that is refused
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any, Final

from conf.errors import ConfigError
from conf.schema import Conf, RunScope
from conf.schema.training import PRECISIONS

Where = Callable[[str], str]
"""Says where a key got its value: a file, or the command line."""


@dataclass(frozen=True)
class Value:
    """One choice: its name, how it is written, and whether a configuration has made it."""

    name: str
    written: str
    chosen: Callable[[Conf | RunScope], bool]


@dataclass(frozen=True)
class Axis:
    """What is chosen, and the key that a message names."""

    name: str
    key: str
    values: tuple[Value, ...]

    def chosen(self, conf: Conf | RunScope) -> Value | None:
        """Return the value that a configuration has on this axis, None for one not in the table."""
        return next((value for value in self.values if value.chosen(conf)), None)


@dataclass(frozen=True)
class Rule:
    """What is to be said of two values of different axes."""

    first: str
    second: str
    why: str
    hint: str = ""

    def is_of(self, a: Value, b: Value) -> bool:
        """Return whether it is about these two."""
        return {self.first, self.second} == {a.name, b.name}


def _at(conf: Conf | RunScope, key: str) -> Any:
    """Return a configuration's value at a dotted key; None where the chosen group has none."""
    found: Any = conf
    for name in key.split("."):
        found = getattr(found, name, None)
    return found


def _named(name: str, key: str, said: Mapping[str, object], *, group: str = "") -> Axis:
    """Return an axis of which each value is one of a key, by its name.

    With a `group` that is what is written: a choice of `strategy` decides `strategy.name`.
    """
    values = [_one(one, group or key, key, value) for one, value in said.items()]
    return Axis(name, group or key, tuple(values))


def _one(name: str, written: str, key: str, value: object) -> Value:
    text = "null" if value is None else str(value)
    return Value(name, f"{written}={text}", lambda conf: bool(_at(conf, key) == value))


def _sgd(conf: Conf | RunScope, *, momentum: bool) -> bool:
    return conf.trainer.optimizer == "sgd" and (conf.trainer.momentum > 0) == momentum


COHORT_RULES: Final = (
    "median",
    "trimmed_mean",
    "krum",
    "multikrum",
    "bulyan",
    "geometric_median",
    "centered_clipping",
)
"""Rules over all updates of a round (`strategies.cohort_rule`)."""
_COUNTING_ROWS: Final = tuple(name for name in COHORT_RULES if name != "geometric_median")
"""Those that know no weights."""
_ALGORITHMS: Final = _named(
    "algorithm",
    "strategy.name",
    {name: name for name in ("fedavg", "fedprox", "scaffold", *COHORT_RULES)},
    group="strategy",
)
_FROM_FLOWER: Final = Value(
    "from Flower",
    "strategy.target=flwr.serverapp.strategy.FedAdam strategy.args.eta=0.01",
    lambda conf: str(_at(conf, "strategy.target") or "").startswith("flwr."),
)

AXES: Final = (
    replace(_ALGORITHMS, values=(*_ALGORITHMS.values, _FROM_FLOWER)),
    Axis(
        "optimizer",
        "trainer.optimizer",
        (
            Value("sgd", "trainer.momentum=0", partial(_sgd, momentum=False)),
            Value("momentum", "trainer.momentum=0.9", partial(_sgd, momentum=True)),
            _one("adam", "trainer", "trainer.optimizer", "adam"),
            Value(
                "adamw",
                "trainer=adam trainer.optimizer=adamw",
                lambda conf: conf.trainer.optimizer == "adamw",
            ),
        ),
    ),
    _named("precision", "trainer.precision", {name: name for name in PRECISIONS}),
    Axis(
        "clipping",
        "trainer.clip_norm",
        (
            _one("unclipped", "trainer.clip_norm", "trainer.clip_norm", None),
            Value("clipped", "trainer.clip_norm=1", lambda c: c.trainer.clip_norm is not None),
        ),
    ),
    Axis(
        "batches a step",
        "trainer.accumulate",
        (
            _one("one", "trainer.accumulate", "trainer.accumulate", 1),
            Value("several", "trainer.accumulate=2", lambda c: c.trainer.accumulate > 1),
        ),
    ),
    _named(
        "weighting",
        "strategy.weighting",
        {"by examples": "examples", "by size": "size", "each the same": "equal"},
    ),
    Axis(
        "normalisation",
        "model",
        (
            Value("no buffers", "model=mlp", lambda c: c.model.name in ("mlp", "cnn")),
            Value("batch norm", "model=resnet18", lambda c: _at(c, "model.norm") == "batch"),
        ),
    ),
    Axis(
        "participation",
        "run.cohort",
        (
            _one("all silos", "run.cohort", "run.cohort", None),
            Value("some silos", "run.cohort=2", lambda c: c.run.cohort is not None),
        ),
    ),
    Axis(
        "personal layers",
        "strategy.keeps",
        (
            _one("all shared", "strategy.keeps", "strategy.keeps", []),
            Value("personal layers", "strategy.keeps=[fc]", lambda c: bool(c.strategy.keeps)),
        ),
    ),
    _named("model that is kept", "run.keep", {"the last": "last", "the best": "best"}),
    _named(
        "privacy",
        "privacy.name",
        {
            "no privacy": "none",
            "sample-level privacy": "sample_dp",
            "silo-level privacy": "silo_dp",
            "local privacy": "local_dp",
        },
        group="privacy",
    ),
    _named("aggregation", "aggregation.name", {"in the clear": "plain"}, group="aggregation"),
    _named(
        "compression",
        "compression.name",
        {
            "no compression": "none",
            "bf16 changes": "bf16",
            "fp16 changes": "fp16",
            "int8": "int8",
            "int4": "int4",
            "topk": "topk",
            "randk": "randk",
            "lowrank": "lowrank",
        },
        group="compression",
    ),
)

_NOT_SGD: Final = (
    "a control variate is what the weights moved by, divided by the learning rates: a gradient"
    " under SGD, and no gradient where each weight has a step size of its own"
)
_SGD: Final = "Train with trainer=sgd, or choose strategy=fedavg or strategy=fedprox."
_UNKNOWN_SHARES: Final = (
    "c is the mean of all c_i only with weights that are known before a silo has taken part"
)
_EQUAL: Final = "Leave strategy.weighting=equal."
_NO_WEIGHTS: Final = (
    "the rule counts updates and ignores how many examples a silo says it has, of which a liar may"
    " say anything"
)
_HINT_NO_WEIGHTS: Final = (
    "Leave strategy.weighting=equal, or choose strategy=geometric_median, which weighs."
)
_PRIVATE: Final = "sample-level privacy"
_AT_THE_SERVER: Final = "silo-level privacy"
_LOCAL: Final = "local privacy"
_COUNTS: Final = "it would tell how many examples a silo has"
_WEIGHTS: Final = (
    "it would let a silo with more examples move the mean by more than the norm allows"
)
_BUFFERS: Final = (
    "running means and variances depend on data, and have no bound that noise could cover"
)
_ONE_MEAN: Final = "the noise is that of a plain mean of the silos' changes"
_NO_METRICS: Final = "no silo tells metrics of its examples, so that no round is known to be better"
_MORE: Final = "control variates are sent beside the model, and have no bound"
_LEAVING_OUT: Final = ("topk", "randk", "lowrank")
_FORMS: Final = ("bf16 changes", "fp16 changes", "int8", "int4", *_LEAVING_OUT)
REFUSED: Final = (
    *(
        Rule(
            _AT_THE_SERVER,
            form,
            "a change is clipped to a norm, and what is rounded, or added from what an earlier round"
            " left out, may be longer than that",
            "Leave compression=none, or use privacy=local_dp.",
        )
        for form in _FORMS
    ),
    Rule(_PRIVATE, "by examples", _COUNTS, "Add strategy.weighting=equal."),
    Rule(_PRIVATE, "by size", _COUNTS, "Add strategy.weighting=equal."),
    Rule(
        _PRIVATE,
        "batch norm",
        "a batch's statistics mix its examples, so that none has a gradient of its own",
        "Use model.norm=group, or a model without normalisation.",
    ),
    Rule(
        _PRIVATE,
        "clipped",
        "the gradient of each example is clipped, to privacy.clip_norm",
        "Leave trainer.clip_norm out.",
    ),
    Rule(
        _PRIVATE,
        "several",
        "a step is one draw, of trainer.batch_size examples on average",
        "Leave trainer.accumulate out; batch_size_at_most bounds what is in memory at once.",
    ),
    Rule(
        _PRIVATE,
        "from Flower",
        "a strategy of Flower's wants to know each silo's loss and number of examples",
        "Use strategy=fedavg, fedprox or scaffold.",
    ),
    Rule(
        _PRIVATE,
        "the best",
        _NO_METRICS,
        "Leave run.keep=last.",
    ),
    Rule(_AT_THE_SERVER, "by examples", _WEIGHTS, "Add strategy.weighting=equal."),
    Rule(_AT_THE_SERVER, "by size", _WEIGHTS, "Add strategy.weighting=equal."),
    Rule(
        _AT_THE_SERVER,
        "batch norm",
        _BUFFERS,
        "Use model.norm=group, or a model without normalisation.",
    ),
    Rule(_AT_THE_SERVER, "from Flower", _ONE_MEAN, "Use strategy=fedavg or fedprox."),
    Rule(_AT_THE_SERVER, "scaffold", _MORE, "Use strategy=fedavg or fedprox."),
    Rule(_AT_THE_SERVER, "the best", _NO_METRICS, "Leave run.keep=last."),
    Rule(_LOCAL, "by examples", _WEIGHTS, "Add strategy.weighting=equal."),
    Rule(_LOCAL, "by size", _WEIGHTS, "Add strategy.weighting=equal."),
    Rule(_LOCAL, "batch norm", _BUFFERS, "Use model.norm=group, or a model without normalisation."),
    Rule(_LOCAL, "from Flower", _ONE_MEAN, "Use strategy=fedavg or fedprox."),
    Rule(_LOCAL, "scaffold", _MORE, "Use strategy=fedavg or fedprox."),
    Rule(_LOCAL, "the best", _NO_METRICS, "Leave run.keep=last."),
    Rule("scaffold", "by examples", _UNKNOWN_SHARES, _EQUAL),
    Rule("scaffold", "by size", _UNKNOWN_SHARES, _EQUAL),
    Rule(
        "from Flower",
        "by size",
        "a strategy of Flower's weighs by examples or not at all",
        "Use strategy.weighting=examples or equal.",
    ),
    Rule(
        "from Flower",
        "personal layers",
        "a strategy of Flower's expects all of the model's arrays in each reply",
        "Use strategy=fedavg, fedprox or scaffold, or leave strategy.keeps out.",
    ),
    *(
        Rule(
            rule,
            _AT_THE_SERVER,
            "its noise is made for a mean, of which each silo is a known part; one silo may move what"
            " a rule makes by more",
            "Use strategy=fedavg or fedprox, or privacy=local_dp.",
        )
        for rule in COHORT_RULES
    ),
    *(Rule(rule, "by examples", _NO_WEIGHTS, _HINT_NO_WEIGHTS) for rule in _COUNTING_ROWS),
    *(Rule(rule, "by size", _NO_WEIGHTS, _HINT_NO_WEIGHTS) for rule in _COUNTING_ROWS),
    Rule("scaffold", "adam", _NOT_SGD, _SGD),
    Rule("scaffold", "adamw", _NOT_SGD, _SGD),
    Rule(
        "scaffold",
        "fp16",
        "fp16 leaves out the steps whose gradients overflow, and a control variate would count"
        " them",
        "Train with trainer.precision=bf16 or fp32.",
    ),
)
"""Pairs that are refused when a run is composed, with the reason and what to do."""

NOTES: Final = (
    Rule(_PRIVATE, "fedprox", "the term is added to the gradient that the noise is already in"),
    Rule(
        _PRIVATE,
        "scaffold",
        "the correction is added to the noised gradient; control variates are made of noised weights",
    ),
    Rule(
        _PRIVATE,
        "some silos",
        "a silo pays for the rounds it answers; its noise is that of all rounds, so that it ends"
        " below privacy.epsilon; who is asked makes nothing cheaper, because the server chooses",
    ),
    Rule(_PRIVATE, "personal layers", "they are trained with noise too, though they never leave"),
    Rule(
        _AT_THE_SERVER,
        "some silos",
        "a silo pays for the rounds in which it is asked; the mean's noise is divided by fewer silos;"
        " who is asked makes nothing cheaper, because the choice follows from run.seed",
    ),
    Rule(_AT_THE_SERVER, "personal layers", "they never leave, are not clipped and get no noise"),
    Rule(_LOCAL, "some silos", "a silo pays for the rounds that it answers"),
    Rule(_LOCAL, "personal layers", "they never leave, are not clipped and get no noise"),
    Rule(_PRIVATE, "bf16", "the gradients of single examples are computed in fp32"),
    Rule(_PRIVATE, "fp16", "the gradients of single examples are computed in fp32"),
    Rule(
        "scaffold",
        "momentum",
        "a control variate is divided by the learning rates with what momentum repeats of each"
        " step, so that it stays a mean of gradients",
    ),
    Rule(
        "scaffold",
        "auto",
        "auto is then never fp16: a GPU that does not compute in bf16 trains in fp32",
    ),
    Rule(
        "scaffold",
        "clipped",
        "the corrected gradient is clipped; the control variate estimates clipped gradients",
    ),
    Rule("scaffold", "batch norm", "buffers are averaged, and have no control variate"),
    Rule(
        "scaffold",
        "some silos",
        "c moves by |S|/N of the mean change; a silo's own advances only with an update that"
        " counted",
    ),
    Rule(
        "scaffold",
        "personal layers",
        "a personal layer has no control variate: its silo trains it uncorrected",
    ),
    Rule(
        "fedprox",
        "personal layers",
        "the term holds a personal layer near to what it was before the round",
    ),
    Rule(
        "batch norm",
        "personal layers",
        "a layer that is kept is kept with its buffers: with the names of all normalisation layers"
        " this is FedBN (Li et al. 2021, arXiv 2102.07623)",
    ),
    Rule(
        "some silos",
        "personal layers",
        "a silo that is not asked keeps what it has; its layers advance only with an update that"
        " counted",
    ),
    Rule(
        "the best",
        "personal layers",
        "the silos keep the personal layers of their last round that counted",
    ),
    Rule("fedprox", "clipped", "the gradient is clipped with the proximal term in it"),
    Rule(
        "fedprox",
        "adam",
        "the term's gradient passes through Adam's scaling as the loss's does",
    ),
    Rule(
        "fedprox",
        "adamw",
        "the term's gradient passes through Adam's scaling as the loss's does",
    ),
    Rule(
        "geometric_median",
        "by examples",
        "it bears liars with less than half of the examples that are said, and not of the silos",
    ),
    Rule(
        "geometric_median",
        "by size",
        "it bears liars with less than half of the sizes that are said, and not of the silos",
    ),
    *(
        Rule(rule, "batch norm", "running means and variances are weights to the rule")
        for rule in COHORT_RULES
    ),
    *(
        Rule(
            rule,
            "some silos",
            "the cohort, and not the federation, must have the updates that the rule needs for"
            " strategy.f",
        )
        for rule in COHORT_RULES
    ),
    *(
        Rule(
            rule,
            kind,
            "the rule sees noised updates, which differ more; it costs no privacy",
        )
        for kind in (_PRIVATE, _LOCAL)
        for rule in COHORT_RULES
    ),
    *(
        Rule(
            "scaffold",
            form,
            "control variates travel as they are: c is the mean of the silos' own, and would drift"
            " from it; the uplink is a little more than half",
        )
        for form in _FORMS
    ),
    *(
        Rule(
            "some silos",
            form,
            "what a silo left out waits until it is asked again, and is then added to a change of"
            " another model: ask most silos in most rounds",
        )
        for form in _LEAVING_OUT
    ),
    *(
        Rule(kind, form, "it is made of weights that have the noise already, and costs nothing")
        for kind in (_PRIVATE, _LOCAL)
        for form in _FORMS
    ),
    *(Rule("batch norm", form, "buffers travel as they are") for form in _FORMS),
    Rule("from Flower", "batch norm", "counters do not pass through a strategy of Flower's"),
)
"""What to know of pairs that work."""

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
