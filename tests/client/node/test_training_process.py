"""An app in a process of its own: the same answers, its state, and each way in which the process can fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from client.app import app
from client.capacity import group_1, group_2
from client.node import training_process
from client.node.memory_limit import make_group
from client.node.training_frames import Frame
from client.node.training_process import TrainingProcess
from client.silo_settings import NODE_KEY
from conf.border import CrossedError
from conf.code_digest import release_digest
from conf.compose import compose
from conf.errors import SiloError
from conf.schema import Silo, TrainingProcessConf
from conf.silos import silo_from_json, silo_to_json
from strategies.wire import protocol
from tests.client.test_app import context as app_context
from tests.client.test_app import message as app_message
from tests.faults import toy
from tests.faults.federation import TOY, model

pytestmark = pytest.mark.usefixtures("task_identity")
LIMIT_MIB = 1500
"""More than torch and Flower take when they are imported."""


class Apart:
    """The toy app in a process of its own, for one silo, with that silo's context."""

    def __init__(self, **training: Any) -> None:
        conf = TrainingProcessConf(separate=True, **training)
        self.silo = Silo("silo-1", 1, 2, training=conf)
        self.app = TrainingProcess(TOY, self.silo, release_digest())
        self.context = self.fresh_context()

    def fresh_context(self) -> Context:
        node = {NODE_KEY: silo_to_json(self.silo)}
        return Context(1, 2, {**node}, state=RecordDict(), run_config={})

    def ask(self, round: int = 1, **config: Any) -> Message:
        return self.app(message(round, **config), self.context)

    @property
    def pid(self) -> int:
        child = self.app._child
        assert child is not None
        return child._process.pid


def message(round: int = 1, kind: str = "train", **config: Any) -> Message:
    record = ConfigRecord({"server-round": round, "meadow-run-id": "run", **config})
    return Message(RecordDict({"arrays": model(seed=round), "config": record}), 2, kind)


@pytest.fixture(scope="module")
def shared() -> Iterator[Apart]:
    """One process for the tests that do it no lasting harm."""
    made = Apart(seconds=100)
    yield made
    made.app.close()


@pytest.fixture
def apart(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Makes processes that are ended with the test."""
    made: list[Apart] = []

    def make(**training: Any) -> Apart:
        made.append(Apart(**training))
        return made[-1]

    yield make
    for one in made:
        one.app.close()


def values(reply: Message) -> dict[str, Any]:
    arrays = reply.content["arrays"]
    assert isinstance(arrays, ArrayRecord)
    return {name: array.numpy() for name, array in arrays.items()}


def test_it_answers_as_in_the_node_itself(shared: Apart) -> None:
    here = toy.app(message(1), shared.fresh_context())
    shared.context = shared.fresh_context()
    there = shared.ask(1)
    assert values(there).keys() == values(here).keys()
    for name, array in values(here).items():
        assert (
            np.array_equal(values(there)[name], array) and values(there)[name].dtype == array.dtype
        )
    assert there.content["metrics"] == here.content["metrics"]
    assert there.metadata.reply_to_message_id == here.metadata.reply_to_message_id
    assert there.metadata.message_type == "train"


def test_the_state_comes_back_and_one_that_was_restored_is_taken(shared: Apart) -> None:
    shared.context = shared.fresh_context()
    for round in (1, 2, 3):
        reply = shared.ask(round)
    assert reply.content["metrics"]["rounds-seen"] == 3
    kept = shared.context.state
    assert kept, "the silo's node has what it must store"
    shared.context = shared.fresh_context()
    assert shared.ask(4).content["metrics"]["rounds-seen"] == 1
    shared.context.state = kept
    assert shared.ask(5).content["metrics"]["rounds-seen"] == 4


def test_what_a_silo_left_out_of_its_updates_is_sent_from_a_process_of_its_own_too() -> None:
    """The app itself, whose state crosses there and back."""
    conf = compose(["task=digits", "data.examples=200", "federation.size=2", "compression=topk"])
    here, there = app_context(conf), app_context(conf)
    silo = silo_from_json(str(there.node_config[NODE_KEY]))
    apart = TrainingProcess("client.app:app", silo, release_digest())
    try:
        for round in (1, 2):
            sent = [app_message(conf, **told(round)) for _ in range(2)]
            one, other = app(sent[0], here), apart(sent[1], there)
            assert change_of(one) == change_of(other)
        assert here.state.object_id == there.state.object_id
    finally:
        apart.close()


def told(round: int) -> dict[str, Any]:
    return {protocol.ROUND: round, protocol.COUNTED: round - 1}


def change_of(reply: Message) -> dict[str, bytes]:
    record = reply.content[protocol.CHANGE]
    assert isinstance(record, ArrayRecord)
    return {name: array.data for name, array in record.items()}


def test_what_the_app_raises_is_raised_here_and_the_process_stays(shared: Apart) -> None:
    shared.ask(1)
    before = shared.pid
    with pytest.raises(CrossedError, match=r'MDW-647 .*"at":"toy.py:\d+","raised":"RuntimeError"'):
        shared.ask(2, **{"raise": "silo-1"})
    assert shared.pid == before


def test_an_error_of_meadow_keeps_its_kind_code_and_hint(shared: Apart) -> None:
    # The toy finds no silo in such a context.
    context = Context(2, 2, {}, state=RecordDict(), run_config={})
    with pytest.raises(SiloError) as caught:
        shared.app(message(), context)
    assert (caught.value.code, bool(caught.value.hint)) == ("MDW-301", True)


def test_a_process_that_is_killed_costs_that_answer_and_another_takes_its_place(apart: Any) -> None:
    one = apart()
    one.ask(1)
    before = one.pid
    with pytest.raises(SiloError, match=r"MDW-353.*silo-1 ended with signal SIGKILL"):
        one.ask(2, kill="silo-1")
    assert one.ask(3).has_content() and one.pid != before
    assert one.context.state, "its state is in the node, and was given to the new process"
    assert one.ask(4).content["metrics"]["rounds-seen"] == 3


def test_a_process_that_hangs_is_ended_after_its_time(apart: Any) -> None:
    one = apart(seconds=3)
    one.ask(1)
    started = time.monotonic()
    with pytest.raises(SiloError, match=r"MDW-354.*silo-1 did not answer within the time"):
        one.ask(2, sleep=600)
    assert time.monotonic() - started < 30
    assert one.ask(3).has_content()


@pytest.mark.slow
def test_a_process_that_is_stopped_is_ended_after_its_time(apart: Any) -> None:
    one = apart(seconds=3)
    one.ask(1)
    os.kill(one.pid, signal.SIGSTOP)
    with pytest.raises(SiloError, match="MDW-354"):
        one.ask(2)


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="RLIMIT_DATA is kept on Linux alone")
def test_memory_beyond_the_limit_is_refused_where_there_is_no_group(
    apart: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_process, "make_group", lambda limit: None)
    one = apart(memory=f"{LIMIT_MIB}m")
    one.ask(1)
    before = one.pid
    with pytest.raises(SiloError, match=r"MDW-355.*silo-1 ran out of the memory"):
        one.ask(2, take="silo-1", mib=LIMIT_MIB)
    assert one.ask(3, take="silo-1", mib=10).has_content() and one.pid != before


@pytest.mark.slow
def test_the_kernel_ends_a_process_that_wants_more_than_its_group_may(apart: Any) -> None:
    probe = make_group(1 << 30)
    if probe is None:
        pytest.skip(f"no control group can be made below {group_2() or group_1()}")
    probe.remove()
    one = apart(memory=f"{LIMIT_MIB}m")
    one.ask(1)
    group = one.app._child._group
    with pytest.raises(SiloError, match=r"MDW-355.*silo-1 ran out of the memory"):
        one.ask(2, take="silo-1", mib=LIMIT_MIB)
    assert one.ask(3).has_content()
    assert not group.folder.exists(), "nothing is left of the group"


def test_a_limit_that_can_t_be_kept_is_no_silent_one(
    apart: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_process, "make_group", lambda limit: None)
    one = apart(memory="2g")
    monkeypatch.setattr(
        training_process,
        "receive",
        lambda end: Frame({"limit": "nothing", "code": release_digest(), "pid": 1}),
    )
    with pytest.raises(SiloError, match=r"MDW-356.*can't be limited here"):
        one.ask(1)


@pytest.mark.slow
def test_other_code_than_the_node_s_is_refused() -> None:
    silo = Silo("silo-1", training=TrainingProcessConf(separate=True))
    app = TrainingProcess(TOY, silo, "0" * 64)
    try:
        context = Context(1, 2, {NODE_KEY: silo_to_json(silo)}, RecordDict(), {})
        with pytest.raises(SiloError, match=r"MDW-356.*other code"):
            app(message(), context)
    finally:
        app.close()


def test_its_arguments_tell_nothing_of_the_silo(shared: Apart) -> None:
    shared.ask(1)
    words = Path(f"/proc/{shared.pid}/cmdline")
    if not words.exists():
        pytest.skip("no /proc")
    assert b"silo" not in words.read_bytes().replace(b"client.node", b"")


def test_it_ends_with_the_node_even_where_that_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "node.py"
    program.write_text(
        "import time\n"
        "from flwr.supercore.task_identity import TaskIdentity\n"
        "TaskIdentity.task_id = TaskIdentity.run_id = 1; TaskIdentity.node_id = 2\n"
        "from tests.client.node.test_training_process import Apart\n"
        "one = Apart(); one.ask(1); print(one.pid, flush=True); time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    node = subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, env=environment, text=True
    )
    assert node.stdout is not None
    pid = int(node.stdout.readline())
    node.kill()
    node.wait()
    node.stdout.close()
    deadline = time.monotonic() + 20
    while _is_running(pid):
        assert time.monotonic() < deadline, "it lives on"


def _is_running(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
