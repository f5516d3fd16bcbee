"""What a result says of the privacy that was spent."""

from __future__ import annotations

from conf.schema import PrivacyConf, SampleDpConf, SiloDpConf
from server.run.privacy_spent import sentences, spent_in, told_by_silos, told_of
from server.run.result import RoundRecord

DP = SampleDpConf(name="sample_dp")


def closed(round: int, **epsilon: float) -> RoundRecord:
    record = RoundRecord(round, cohort=sorted(epsilon))
    record.train = {
        silo: {"epsilon": value, "epsilon-renyi": value + 0.5, "noise-multiplier": 1.1}
        for silo, value in epsilon.items()
    }
    record.privacy = told_by_silos(record)
    return record


def test_a_silo_that_is_not_in_a_round_has_spent_what_it_had() -> None:
    known = told_of(DP, {}, closed(1, north=1.0, south=1.2))
    known = told_of(DP, known, closed(2, north=1.5))
    assert {silo: one["epsilon"] for silo, one in known["silos"].items()} == {
        "north": 1.5,
        "south": 1.2,
    }
    assert spent_in(closed(2, north=1.5)) == {"north": 1.5}


def test_a_run_without_privacy_says_nothing() -> None:
    assert told_of(PrivacyConf(), {}, closed(1)) == {}
    assert sentences({}) == []


def test_who_spent_most_is_named_and_a_seeded_run_promises_nothing() -> None:
    known = told_of(DP, {}, closed(1, north=1.0, south=1.2))
    said = sentences(known)
    assert said[0].startswith(
        "sample-level (DP-SGD at each silo): epsilon 1.200 at delta 1e-05 at south"
    )
    assert any("known to k silos k times" in one for one in said)
    assert "north 1.000, south 1.200" in said[1] and "1.700" in said[1]
    seeded = told_of(SampleDpConf(name="sample_dp", test_seed=1), {}, closed(1, north=1.0))
    assert sentences(seeded)[0].startswith("no guarantee")


def test_of_groups_it_says_what_a_group_is() -> None:
    groups = SampleDpConf(name="sample_dp", unit="group", examples_per_unit=5)
    known = told_of(groups, {}, closed(1, north=1.0))
    assert (known["unit"], known["examples_per_unit"]) == ("group", 5)
    said = ". ".join(sentences(known))
    assert "of one group more or less" in said and "each group's mean gradient clipped" in said
    assert "data.group" in said and "a person with several examples" not in said


def test_of_silo_level_privacy_the_server_counts_and_the_noise_is_told() -> None:
    record = RoundRecord(1, cohort=["north", "south"])
    record.privacy = {
        silo: {"epsilon": 3.0, "epsilon_renyi": 3.2, "noise_multiplier": 1.0}
        for silo in record.cohort
    }
    mean = {"clip_norm": 0.5, "deviation": 0.25, "noise_norm": 17.0, "step_norm": 17.0}
    known = told_of(SiloDpConf(name="silo_dp"), {}, record, mean)
    assert (known["relation"], known["unit"], known["counted_by"]) == (
        "replace-one",
        "silo",
        "server",
    )
    said = ". ".join(sentences(known))
    assert "of one silo with any other data" in said and "as the server counts it" in said
    assert "noise of 0.25 in each weight" in said and "of norm 17 in all" in said
    assert "person" not in said, "a silo is protected as a whole"


def test_an_epsilon_without_bound_and_a_thousand_silos_can_be_told() -> None:
    record = RoundRecord(1, cohort=[])
    record.privacy = {
        f"silo-{n}": {"epsilon": None, "epsilon_renyi": None, "noise_multiplier": 1.0}
        for n in range(1000)
    }
    said = sentences(told_of(SiloDpConf(name="silo_dp"), {}, record))
    assert "epsilon without bound" in said[0]
    assert "and 988 more" in said[1]
