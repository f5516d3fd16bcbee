"""Which two choices do not work together and why, and what to know of others (`conf.combinations`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from conf.combination_axes import COHORT_RULES, COUNTING_ROWS, Value


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
    *(Rule(rule, "by examples", _NO_WEIGHTS, _HINT_NO_WEIGHTS) for rule in COUNTING_ROWS),
    *(Rule(rule, "by size", _NO_WEIGHTS, _HINT_NO_WEIGHTS) for rule in COUNTING_ROWS),
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
