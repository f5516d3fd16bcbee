"""The silo's job from the outside: its exit statuses, its one line, what it keeps, and how it finds the server."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from azureml_jobs.cli.arguments import parse
from azureml_jobs.cli.programs import node_settings
from azureml_jobs.cli.verbs import VERBS
from azureml_jobs.identity.node_key import make_node_key, node_secret
from client.node.job import IDLE_STATUS, NodeSettings, make_node, run
from client.node.journal import InstructionKey, UpdateJournal
from conf.silos import silo_to_json
from server.orchestrator.object_store import ObjectStore
from server.orchestrator.packed_grid import PackedGrid
from server.orchestrator.service import Orchestrator
from strategies.wire.objects import deflate
from tests.faults.federation import TOY, Federation, ask, free_port, lines, model, total, until


@pytest.fixture(autouse=True)
def keep_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def settings(federation: Federation, *more: str, **changed: str) -> NodeSettings:
    authority = federation.folder / "ca.pem"
    authority.write_bytes(federation.authority)
    key = federation.secrets.where(node_secret("federation", "silo-1"))
    options = {
        "server": "127.0.0.1:1",
        "ca": str(authority),
        "admission": str(federation.admission_file("silo-1")),
        "key": key,
        "app": TOY,
        **changed,
    }
    named = [part for name, value in options.items() if value for part in (f"--{name}", value)]
    arguments = ["--silo", silo_to_json(federation.silos[0]), *named, *more]
    return node_settings(parse(VERBS["join"], arguments))


def test_no_server_in_time_ends_with_its_own_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    federation = Federation(tmp_path, silos=1)
    assert (
        run(settings(federation, "--idle-timeout", "0.5", server=f"127.0.0.1:{free_port()}"))
        == IDLE_STATUS
    )
    assert capsys.readouterr().err == "ended: no server for 0 s\n"
    assert "MDW-730" in caplog.text and "nobody answers at 127.0.0.1" in caplog.text


def test_an_unregistered_key_ends_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation = Federation(tmp_path, silos=1)
    with federation.orchestrator() as orchestrator:
        make_node_key(federation.secrets, "federation", "stranger")
        key = federation.secrets.where(node_secret("federation", "stranger"))
        assert run(settings(federation, server=orchestrator.address, key=key, admission="")) == 8
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith("MDW-715: There is no admission for the key SHA256:")
    )


BAD = {
    "a key that is not there": ({"key": "{folder}/nothing"}, "MDW-700"),
    "a key of another type": ({"key": "{folder}/rsa"}, "MDW-70"),
    "a CA that is not there": ({"ca": "{folder}/nothing"}, "MDW-756"),
    "a CA that is none": ({"ca": "{folder}/text"}, "MDW-706"),
    "an app that is not there": ({"app": "tests.faults.toy:nothing"}, "MDW-333"),
    "an app that is none": ({"app": "tests.faults.federation:TOY"}, "MDW-333"),
    "an address that is none": ({"server": "http://127.0.0.1"}, "MDW-732"),
    "a state folder that can't be made": ({"state": "{folder}/text/state"}, "MDW-756"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_that_says_what(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation = Federation(tmp_path, silos=1)
    (tmp_path / "text").write_text("nothing of the kind")
    (tmp_path / "rsa").touch(mode=0o600)
    (tmp_path / "rsa").write_text(
        "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
    )
    changed, code = BAD[case]
    status = run(
        settings(
            federation, **{name: value.format(folder=tmp_path) for name, value in changed.items()}
        )
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(code) and status in (4, 8)


def test_a_server_at_a_new_address_is_found_and_asked_again(tmp_path: Path) -> None:
    federation = Federation(tmp_path, silos=1)
    where: list[str] = []
    with federation.orchestrator() as first:
        where.append(first.address)
        node = federation.thread_node(first.address, federation.silos[0])
        with node as silo:
            silo.connection._rendezvous = lambda: where[-1]
            first.wait_for(["silo-1"], 1, 20)
            first.stop(over=False)
            with federation.orchestrator() as second:
                assert second.address != where[0]
                where.append(second.address)
                second.wait_for(["silo-1"], 1, 30)
                grid = PackedGrid(second.open_run("run", ["silo-1"]))
                assert total(grid.send_and_receive(ask(grid, 1, model()), timeout=30)) == 3001


def test_asked_again_it_answers_with_the_kept_update_and_for_other_content_it_trains(
    tmp_path: Path,
) -> None:
    federation, trained = Federation(tmp_path, silos=1), tmp_path / "trained.jsonl"
    config = {"trained-file": str(trained)}

    def one_round(orchestrator: Orchestrator, round: int, size: int = 1000) -> list[Message]:
        with federation.thread_node(orchestrator.address, federation.silos[0], tmp_path / "state"):
            orchestrator.wait_for(["silo-1"], 1, 20)
            grid = PackedGrid(orchestrator.open_run("again", ["silo-1"]))
            return grid.send_and_receive(ask(grid, round, model(size), **config), timeout=30)

    with federation.orchestrator() as orchestrator:
        (first,), (again,) = one_round(orchestrator, 1), one_round(orchestrator, 1)
        assert len(lines(trained)) == 1
        assert again.content["metrics"] == first.content["metrics"]
        assert total([again]) == total([first]) == 3001
        (other,) = one_round(orchestrator, 1, size=10)
        assert len(lines(trained)) == 2 and total([other]) == 31
        (second,) = one_round(orchestrator, 2)
        assert second.content["metrics"]["rounds-seen"] == 2, "the state came back from the disk"


@pytest.mark.parametrize("parts", [True, False])
def test_a_question_under_the_name_of_another_is_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: bool
) -> None:
    """An owner's counts of answers go by the name: a server could have asked anything under it."""
    federation = Federation(tmp_path, silos=1)
    monkeypatch.setattr("client.node.connection.PARTS_HEADER", "parts" if parts else "no-parts")
    monkeypatch.setattr("server.orchestrator.fleet.PARTS_HEADER", "parts")
    with (
        federation.orchestrator() as orchestrator,
        federation.thread_node(orchestrator.address, federation.silos[0]),
    ):
        orchestrator.wait_for(["silo-1"], 1, 20)
        grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
        get = ObjectStore.get
        lie = lambda store, id: (  # noqa: E731
            None if (found := get(store, id)) is None else bytes(found).replace(b"lr", b"rl")
        )
        monkeypatch.setattr(ObjectStore, "get", lie)
        content = RecordDict({"arrays": model(), "config": ConfigRecord({"lr": 1})})
        (reply,) = grid.send_and_receive(
            [Message(content, grid.get_node_ids()[0], "query.names")], timeout=20
        )
        assert reply.has_error() and "MDW-651" in reply.error.reason


def test_the_app_sees_the_records_that_were_sent_and_no_packed_one(tmp_path: Path) -> None:
    federation = Federation(tmp_path, silos=1)
    with (
        federation.orchestrator() as orchestrator,
        federation.thread_node(orchestrator.address, federation.silos[0]),
    ):
        orchestrator.wait_for(["silo-1"], 1, 20)
        grid = PackedGrid(orchestrator.open_run("run", ["silo-1"]))
        content = RecordDict({"arrays": model(), "config": ConfigRecord({"x": 1})})
        (reply,) = grid.send_and_receive(
            [Message(content, grid.get_node_ids()[0], "query.names")], timeout=20
        )
        assert reply.content["seen"]["records"] == ["arrays", "config"]


def test_sigterm_while_it_waits_for_work(tmp_path: Path) -> None:
    federation = Federation(tmp_path, silos=1)
    with (
        federation.orchestrator() as orchestrator,
        federation.process_node(orchestrator.address, federation.silos[0]) as node,
    ):
        until(lambda: "silo-1 is connected" in node.text(), 60)
        node.send(signal.SIGTERM)
        assert node.wait(30) == 143
        until(lambda: not orchestrator.connected(), 2)


# ---- what it keeps on its disk

KEY = InstructionKey("run", 3, "a" * 64)


def keep(folder: Path) -> UpdateJournal:
    journal = UpdateJournal(folder)
    root, _, contents = deflate(RecordDict({"arrays": model(10)}))
    journal.keep_update(KEY, root, contents)
    return journal


def test_only_the_same_question_gets_the_kept_answer(tmp_path: Path) -> None:
    journal = keep(tmp_path / "state")
    assert list(journal.update(KEY.content) or []) == ["arrays"]
    assert journal.update("b" * 64) is None, "a content is one round of one run"
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / "update").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "no JSON"])
def test_a_damaged_file_is_not_used_and_said(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    journal = keep(tmp_path)
    file = tmp_path / "update"
    content = bytearray(file.read_bytes())
    if damage == "torn":
        del content[-40:]
    elif damage == "flipped":
        content[-3] ^= 1
    else:
        content = bytearray(b"" if damage == "empty" else b"{]\n")
    file.write_bytes(content)
    assert journal.update(KEY.content) is None
    assert "can't be used, continuing without it" in caplog.text


@pytest.mark.parametrize("size", [2**62, 10**30, 10**11, -1])
def test_a_file_that_says_a_length_beyond_its_bytes_takes_no_memory(
    size: int, tmp_path: Path
) -> None:
    journal = UpdateJournal(tmp_path / "kept")
    instruction = {"run": "run", "round": 1, "content": KEY.content}
    head = {"instruction": instruction, "root": "a", "objects": [["a", size]]}
    (tmp_path / "kept" / "update").write_bytes(json.dumps(head).encode() + b"\nabc")
    assert journal.update(KEY.content) is None


def test_a_silo_says_once_a_day_that_its_ca_will_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    federation = Federation(tmp_path, silos=1, made=datetime.now(UTC) - timedelta(days=3650 - 6))
    node = make_node(settings(federation))
    for _ in range(3):
        node._remind()
    (line,) = [
        record.getMessage() for record in caplog.records if record.name == "client.node.node"
    ]
    assert (
        line.startswith(f"The CA in {tmp_path / 'ca.pem'} expires in 7 days or less")
        and "owner" in line
    )
