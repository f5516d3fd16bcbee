"""What a result says of the privacy that was spent."""

from __future__ import annotations

from conf.schema import PrivacyConf, SampleDpConf
from server.run.privacy_spent import sentences, spent_in, told_of
from server.run.result import RoundRecord

DP = SampleDpConf(name="sample_dp")


def closed(round: int, **epsilon: float) -> RoundRecord:
    record = RoundRecord(round, cohort=sorted(epsilon))
    record.train = {
        silo: {"epsilon": value, "epsilon-renyi": value + 0.5, "noise-multiplier": 1.1}
        for silo, value in epsilon.items()
    }
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
    assert said[0].startswith("sample-level (DP-SGD): epsilon 1.200 at delta 1e-05 at south")
    assert "north 1.000, south 1.200" in said[1] and "1.700" in said[1]
    seeded = told_of(SampleDpConf(name="sample_dp", test_seed=1), {}, closed(1, north=1.0))
    assert sentences(seeded)[0].startswith("no guarantee")
