"""What each kind of privacy protects and from whom, and which one is at least as much as another.

    sample_dp   each example, from everybody: the noise is in what leaves the silo
    silo_dp     all data of a silo, from whoever gets the model: the noise is the server's, which
                sees each silo's clipped change, and nobody at a silo can see that it adds any
    local_dp    all data of a silo, from everybody: two sets of data that differ by an example are
                two sets of data, so that it covers what sample_dp does, and the model is made of
                what left, so that it covers what silo_dp does

`sample_dp` and `silo_dp` are not comparable. So a floor is met by itself and by `local_dp`.

What `sample_dp` protects as one is its unit (`privacy.unit`): an example, or all examples of a group
(`client.groups`).
"""

from __future__ import annotations

from typing import Final

NONE: Final = "none"
SAMPLE_DP: Final = "sample_dp"
SILO_DP: Final = "silo_dp"
LOCAL_DP: Final = "local_dp"
NOISED_METRICS: Final = "noised_metrics"
"""Not a kind that a run chooses: the sums of an evaluation that leave under `sample_dp`, with noise of
their own (`client.privacy.noised_sums`).
"""

ADD_OR_REMOVE_ONE: Final = "add-or-remove-one"
"""Neighbours: two sets of a silo's examples, of which one has one example more."""
REPLACE_ONE: Final = "replace-one"
"""Neighbours: two federations of the same silos, of which one silo has other data, whatever it is."""
RELATIONS: Final = {
    SAMPLE_DP: ADD_OR_REMOVE_ONE,
    SILO_DP: REPLACE_ONE,
    LOCAL_DP: REPLACE_ONE,
    NOISED_METRICS: ADD_OR_REMOVE_ONE,
}
EXAMPLE: Final = "example"
GROUP: Final = "group"
SILO: Final = "silo"
UNITS: Final = {
    SAMPLE_DP: (EXAMPLE, GROUP),
    SILO_DP: (SILO,),
    LOCAL_DP: (SILO,),
    NOISED_METRICS: (EXAMPLE,),
}
"""What may be protected as a whole: a group is what `data.group` says (a patient, an account)."""
CALLED: Final = {
    SAMPLE_DP: "sample-level (DP-SGD at each silo)",
    SILO_DP: "silo-level (noise in the mean, at the server)",
    LOCAL_DP: "local (noise in each silo's change, at the silo)",
    NOISED_METRICS: "sums with Gaussian noise (added at each silo)",
}

MEETING: Final = {
    NONE: (NONE, SAMPLE_DP, SILO_DP, LOCAL_DP),
    SAMPLE_DP: (SAMPLE_DP, LOCAL_DP),
    SILO_DP: (SILO_DP, LOCAL_DP),
    LOCAL_DP: (LOCAL_DP,),
}
"""By an owner's floor, the kinds of privacy that are at least as much."""
OF_EXAMPLES: Final = (*MEETING[SAMPLE_DP], NOISED_METRICS)
"""The kinds whose releases say what they cost each example: an owner's `epsilon_at_most`."""
OF_SILOS: Final = MEETING[SILO_DP]
"""The kinds whose releases say what they cost the silo as a whole: `silo_epsilon_at_most`."""
AS_NOTED: Final = "as noted"
REPLACED: Final = "replaced"
SUMS: Final = {
    EXAMPLE: {
        (SAMPLE_DP, EXAMPLE): AS_NOTED,
        (NOISED_METRICS, EXAMPLE): AS_NOTED,
        (SAMPLE_DP, GROUP): REPLACED,
        (LOCAL_DP, SILO): AS_NOTED,
    },
    GROUP: {(SAMPLE_DP, GROUP): AS_NOTED, (LOCAL_DP, SILO): AS_NOTED},
    SILO: {(SILO_DP, SILO): AS_NOTED, (LOCAL_DP, SILO): AS_NOTED},
}
"""By what is to be protected, the releases (kind and unit) that say what they cost it, and how they
are counted. A group with one example more is another group in its place, twice the norm away: what a
release costs each example of a group is more than what it costs the group. What is not here has no
such bound.
"""


def sensitivity_of(kind: str) -> float:
    """Return how far two neighbours' sums may be apart, in units of the clipping norm.

    An example is there or not; a silo's change of norm C may become any other of that norm.
    """
    return 1.0 if RELATIONS[kind] == ADD_OR_REMOVE_ONE else 2.0
