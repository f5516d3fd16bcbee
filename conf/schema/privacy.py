"""What noise a run asks of its silos or its server, and what it may cost examples or silos."""

from __future__ import annotations

from dataclasses import dataclass

from conf.fields import MOST_EXAMPLES, MOST_ROUNDS, number, one_of, value
from conf.privacy_kinds import SILO


@dataclass
class PrivacyConf:
    """The kind of privacy that a run has; what its owner asks at least is in a silo's policy."""

    name: str = one_of(
        "none", "sample_dp", "silo_dp", "local_dp", help="the kind of privacy (docs/privacy.md)"
    )

    @property
    def is_private(self) -> bool:
        """Return whether a silo tells nothing of its examples but its update, which is bounded."""
        return self.name != "none"

    @property
    def guarantees(self) -> bool:
        """Return whether anything is promised: not of noise that has a seed."""
        return self.is_private and getattr(self, "test_seed", None) is None

    @property
    def noises_metrics(self) -> bool:
        """Return whether metrics leave a silo with noise of their own, under the run's epsilon."""
        return float(getattr(self, "metrics_epsilon", 0.0)) > 0


@dataclass
class NoisyConf(PrivacyConf):
    """What every kind of privacy with noise says: how much of it, and of what norm.

    One of `epsilon` and `noise_multiplier` says how much noise there is.
    """

    epsilon: float | None = number(
        None,
        above=0,
        at_most=1000,
        help="what the whole run may cost each unit of any silo, or each silo: gives the noise "
        "before round 1; null = privacy.noise_multiplier says it",
        also=("target_epsilon",),
    )
    delta: float = number(
        1e-5,
        above=0,
        at_most=0.1,
        help="probability with which epsilon may not hold; no more than one in the units of a "
        "silo, or in the silos",
        also=("target_delta",),
    )
    noise_multiplier: float | None = number(
        None,
        at_least=0.2,
        at_most=10000,
        help="standard deviation of the noise, in units of clip_norm; null = what epsilon needs",
        also=("sigma", "noise_scale"),
    )
    clip_norm: float = number(
        1.0,
        # Of a norm near the smallest float32 the noise would round to nothing.
        at_least=1e-6,
        help="norm to which the gradient of each unit is clipped (sample_dp), or the change that a "
        "silo makes of the model",
        also=("max_grad_norm", "l2_norm_clip"),
    )
    test_seed: int | None = number(
        None,
        at_least=0,
        at_most=2**31 - 1,
        help="seed of draws and noise, for the same bits twice: a simulation without any guarantee; "
        "null = the operating system's randomness",
    )

    @property
    def protects(self) -> str:
        """Return what is protected as a whole (`conf.privacy_kinds.UNITS`)."""
        return str(getattr(self, "unit", SILO))


@dataclass
class SampleDpConf(NoisyConf):
    """Sample-level privacy: DP-SGD at each silo, of which what leaves tells little of any one example."""

    unit: str = one_of(
        "example",
        "group",
        help="what is protected and clipped as one: an example, or all examples of a group, as each "
        "silo's data.group says (a patient, an account)",
        also=("privacy_unit", "user_level"),
    )
    examples_per_unit: int = number(
        8,
        at_least=1,
        at_most=MOST_EXAMPLES,
        help="examples of a group in a step at most (unit=group); of a larger one others each time",
        also=("rows_per_unit", "examples_per_user"),
    )
    clipping: str = one_of(
        "flat", "per_layer", help="whether the whole gradient has that norm, or each layer its part"
    )
    gradients: str = one_of(
        "hooks",
        "ghost",
        help="how a unit's gradient is clipped: hooks holds that of each example, ghost needs little "
        "more memory than plain training (clipping=flat)",
    )
    metrics_epsilon: float = number(
        0.0,
        at_least=0,
        at_most=1000,
        help="part of epsilon that all evaluations of the run may cost each example: its metrics are "
        "then told, made of sums with noise; 0 = no silo tells any",
    )
    metrics_every: int = number(
        5,
        at_least=1,
        at_most=MOST_ROUNDS,
        help="validation metrics are told in each so many rounds, and in the last; fewer have less "
        "noise",
    )
    metrics_loss_at_most: float = number(
        4.0,
        at_least=1e-6,
        at_most=1e6,
        help="what the loss of an example counts as at most where it is told with noise",
    )
    audit: bool = value(
        False,
        help="whether a simulation puts canaries into the first silo's training, and says how large"
        " epsilon is at least",
    )
    audit_canaries: int = number(
        1000,
        at_least=20,
        at_most=100_000,
        help="how many canaries there are, half of them in the training; at most one in two of the"
        " silo's training examples becomes one",
    )


@dataclass
class SiloDpConf(NoisyConf):
    """Silo-level privacy: each silo's change is clipped, and the server adds noise to their mean, so
    that what it sends on tells little of any one silo. The server itself sees each change.
    """

    clipping: str = one_of(
        "fixed",
        "adaptive",
        help="whether clip_norm stays, or follows the quantile of the silos' norms",
    )
    quantile: float = number(
        0.5,
        above=0,
        at_most=1,
        help="share of the silos whose change is to be within the norm (clipping=adaptive)",
        also=("target_quantile",),
    )
    clip_lr: float = number(
        0.2,
        above=0,
        at_most=2,
        help="how fast the norm follows: it is multiplied by exp of this, at most (clipping=adaptive)",
    )
    count_share: float = number(
        0.01,
        above=0,
        at_most=0.5,
        help="part of the privacy that the count of silos within the norm takes (clipping=adaptive)",
    )


@dataclass
class LocalDpConf(NoisyConf):
    """Local privacy: each silo clips its change and adds the noise itself, so that what leaves tells
    little of all its data; the server is not trusted either.
    """
