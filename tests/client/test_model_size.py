"""A model's size is known before any memory is taken for it."""

from __future__ import annotations

import time

import pytest
import torch

from client import capacity
from client.cache import load_cached
from client.model_size import check_machine, check_model
from client.models import build_model, bytes_of_model
from client.tasks import task_named
from conf.compose import compose
from conf.errors import SiloError
from conf.schema import PolicyConf, RunScope, Silo, TrainerConf
from strategies.wire import run_config

DIGITS = task_named("digits")


def scope(*words: str) -> RunScope:
    return run_config.unpack(run_config.pack(compose(["task=digits", *words])))


@pytest.mark.parametrize("model", ["cnn", "mlp", "resnet18"])
def test_the_size_is_that_of_the_model(model: str) -> None:
    conf = compose(["task=digits", f"model={model}"]).model
    state = torch.random.get_rng_state()
    made = build_model(conf, DIGITS, 0)
    whole = sum(t.nbytes for t in (*made.parameters(), *made.buffers()))
    assert bytes_of_model(conf, DIGITS) == whole
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_of_many_gigabytes_is_refused_in_no_time_and_nothing_is_allocated() -> None:
    asked = scope("model=mlp", "model.hidden=[131072,131072,131072]")
    started = time.monotonic()
    with pytest.raises(
        SiloError, match=r"MDW-350.*mlp is too large for north: 128 GiB, .* GiB there"
    ):
        load_cached(asked, Silo("north", data=compose(["task=digits"]).data))
    assert time.monotonic() - started < 20


def test_what_training_needs_beside_the_weights_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = scope("model=mlp", "model.hidden=[1024,1024]")
    size = bytes_of_model(asked.model, DIGITS)
    assert size is not None
    monkeypatch.setattr(capacity, "memory", lambda: 5 * size)
    check_model(asked, DIGITS, Silo("north"))
    asked.trainer.optimizer = "adam"
    with pytest.raises(SiloError, match="MDW-350"):
        check_model(asked, DIGITS, Silo("north"))


def test_an_owner_s_own_limit_holds() -> None:
    small = Silo("north", policy=PolicyConf(model_mib_at_most=1))
    check_model(scope("model=mlp"), DIGITS, small)
    with pytest.raises(SiloError, match=r"MDW-350.*its owner allows 1 MiB"):
        check_model(scope("model=resnet18"), DIGITS, small)


def test_threads_and_loaders_are_held_to_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "cores", lambda: 2)
    check_machine(TrainerConf(threads=16, loader_workers=16), Silo("north"))
    with pytest.raises(SiloError, match=r"MDW-349: north has 2 cores, and trainer\.threads=17"):
        check_machine(TrainerConf(threads=17), Silo("north"))
    with pytest.raises(SiloError, match=r"MDW-349.*loader_workers=17.*16 or less"):
        check_machine(TrainerConf(loader_workers=17), Silo("north"))
    # The owner's own word is what counts then.
    check_machine(TrainerConf(threads=1000), Silo("north", threads=2))
