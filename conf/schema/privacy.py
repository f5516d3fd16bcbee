"""What noise a run asks of its silos, and what it may cost their examples."""

from __future__ import annotations

from dataclasses import dataclass

from conf.fields import number, one_of, value


@dataclass
class PrivacyConf:
    """The kind of privacy that a run has; what its owner asks at least is in a silo's policy."""

    name: str = one_of("none", "sample_dp", help="the kind of privacy")

    @property
    def is_private(self) -> bool:
        """Return whether a silo tells nothing of its examples but what has noise in it."""
        return self.name != "none"


@dataclass
class SampleDpConf(PrivacyConf):
    """Sample-level privacy: DP-SGD at each silo, of which what leaves tells little of any one example.

    One of `epsilon` and `noise_multiplier` says how much noise there is.
    """

    epsilon: float | None = number(
        None,
        above=0,
        at_most=1000,
        help="what the whole run may cost each example, whatever silo it is at: gives the noise before "
        "round 1; null = privacy.noise_multiplier says it",
        also=("target_epsilon",),
    )
    delta: float = number(
        1e-5,
        above=0,
        at_most=0.1,
        help="probability with which epsilon may not hold; no more than one in the examples of a silo",
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
        above=0,
        help="norm to which the gradient of each example is clipped",
        also=("max_grad_norm", "l2_norm_clip"),
    )
    clipping: str = one_of(
        "flat", "per_layer", help="whether the whole gradient has that norm, or each layer its part"
    )
    test_seed: int | None = number(
        None,
        at_least=0,
        at_most=2**31 - 1,
        help="seed of draws and noise, for the same bits twice: a simulation without any guarantee; "
        "null = the operating system's randomness",
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
