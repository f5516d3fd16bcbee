"""What a silo answers before the first real run: what it was sent, turned round, and no name or path."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict

from client.app import app
from client.border_mod import OWN_NODE
from client.silo_settings import NODE_KEY
from client.smoke_answer import answer, data_in_words
from conf.compose import compose
from conf.errors import SiloError, WireError
from conf.schema import Conf, PolicyConf, RunScope
from conf.silos import silo_to_json, silos
from strategies.wire import protocol, run_config
from strategies.wire.objects import array_of
from tests.client.test_app import message

pytestmark = pytest.mark.usefixtures("task_identity")

SENT = np.arange(5, dtype=np.uint8)


@pytest.fixture(scope="module")
def conf() -> Conf:
    return compose(["task=smoke"])


def scope_of(conf: Conf) -> RunScope:
    return run_config.unpack(run_config.pack(conf))


def sent() -> ArrayRecord:
    return ArrayRecord({"load": array_of(SENT)})


def test_it_brings_back_what_was_sent_and_says_what_it_is(conf: Conf, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").touch()
    silo = silos(conf)[0]
    silo = dataclasses.replace(silo, data=dataclasses.replace(silo.data, root=str(tmp_path)))

    content = answer(sent(), scope_of(conf), silo)

    arrays = protocol.records(content, ArrayRecord)[protocol.ARRAYS]
    assert arrays["load"].numpy().tolist() == SENT[::-1].tolist()
    facts = protocol.records(content, ConfigRecord)[protocol.FACTS]
    assert facts["data"] == "there" and facts["device"] in ("cpu", "cuda:0", "cuda")
    assert int(facts["memory"]) > 2**20 and int(facts["cores"]) >= 1  # type: ignore[arg-type]
    assert str(tmp_path) not in str(dict(facts)) and "rows" not in str(dict(facts))


def test_no_other_run_may_ask(conf: Conf) -> None:
    digits = compose(["task=digits"])
    with pytest.raises(WireError, match="MDW-601"):
        answer(sent(), scope_of(digits), silos(digits)[0])


def test_an_owner_may_refuse_it(conf: Conf) -> None:
    silo = dataclasses.replace(silos(conf)[0], policy=PolicyConf(tasks=["mnist"]))
    node = {NODE_KEY: silo_to_json(silo), OWN_NODE: True}
    here = Context(run_id=1, node_id=2, node_config=node, state=RecordDict(), run_config={})
    asked = message(conf, protocol.SMOKE)
    with pytest.raises(SiloError, match="MDW-341"):
        app(asked, here)


def test_a_folder_is_not_there_empty_or_there(tmp_path: Path) -> None:
    assert data_in_words(None) == "not set"
    assert data_in_words(str(tmp_path / "gone")) == "not there"
    assert data_in_words(str(tmp_path)) == "empty"
    (tmp_path / "x").touch()
    assert data_in_words(str(tmp_path)) == data_in_words(str(tmp_path / "x")) == "there"
