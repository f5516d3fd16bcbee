"""Who takes part, in which order, and with which settings."""

from __future__ import annotations

import json

import pytest

from conf.errors import ConfigError
from conf.schema import Conf, DataConf, FederationConf, Silo, SiloConf
from conf.silos import silo_from_json, silo_to_json, silos


def named(**members: SiloConf) -> Conf:
    return Conf(data=DataConf(alpha=0.3, root="/public"), federation=FederationConf(silos=members))


def test_silos_are_generated_when_none_is_named() -> None:
    made = silos(Conf(federation=FederationConf(size=3)))
    assert [(s.name, s.index, s.of) for s in made] == [
        ("silo-1", 0, 3),
        ("silo-2", 1, 3),
        ("silo-3", 2, 3),
    ]


def test_more_than_nine_generated_silos_keep_their_places() -> None:
    assert [s.name for s in silos(Conf(federation=FederationConf(size=11)))] == [
        f"silo-{i}" for i in range(1, 12)
    ]


def test_named_silos_stand_in_the_order_of_their_names() -> None:
    assert [s.name for s in silos(named(south=SiloConf(), north=SiloConf()))] == ["north", "south"]
    assert silos(named(south=SiloConf(), north=SiloConf())) == silos(
        named(north=SiloConf(), south=SiloConf())
    )


def test_a_silo_lays_its_own_settings_over_the_runs() -> None:
    (north,) = silos(
        named(north=SiloConf(data={"root": "/own", "test": 0}, device="cpu", threads=2))
    )
    assert north == Silo("north", 0, 1, DataConf(alpha=0.3, root="/own", test=0.0), "cpu", 2)


def test_an_own_key_may_be_reset_to_the_tasks_default() -> None:
    assert silos(named(north=SiloConf(data={"root": None})))[0].data.root is None


@pytest.mark.parametrize(
    ("data", "code", "word"),
    [
        ({"rot": "/x"}, "MDW-101", "Did you mean 'root'?"),
        ({"root": 3}, "MDW-103", "federation.silos.north.data.root"),
        ({"alpha": 0}, "MDW-104", "federation.silos.north.data.alpha"),
        ({"partition": "labelz"}, "MDW-104", "Did you mean 'labels'?"),
    ],
)
def test_a_silos_own_settings_are_checked(data: dict[str, object], code: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        silos(named(north=SiloConf(data=data)))
    assert caught.value.code == code and word in str(caught.value)


def test_a_silo_survives_json() -> None:
    silo = Silo("north", 1, 3, DataConf(root="/ünïcode", alpha=0.1), "cuda:1", 2)
    assert silo_from_json(silo_to_json(silo)) == silo
    assert "\n" not in silo_to_json(silo)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"name": 3}', '{"name": "a", "data": {"rot": 1}}', "[" * 100_000]
)
def test_no_other_text_makes_a_silo(text: str) -> None:
    with pytest.raises(ConfigError):
        silo_from_json(text)


def test_silos_that_are_alike_keep_their_names_and_places() -> None:
    made = silos(Conf(federation=FederationConf(size=3)))
    assert [silo_from_json(silo_to_json(silo)) for silo in made] == made


@pytest.mark.parametrize(
    "who", [{}, {"name": 3}, {"name": "a", "index": "0"}, {"name": "a", "index": True}]
)
def test_who_a_silo_is_is_checked_as_its_settings_are(who: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        silo_from_json(json.dumps(who))


def test_what_is_wrong_with_one_of_many_alike_is_told_each_time() -> None:
    for name in ("a", "b", "a"):
        with pytest.raises(ConfigError, match="batch_size_at_most"):
            silo_from_json(json.dumps({"name": name, "batch_size_at_most": 0}))
