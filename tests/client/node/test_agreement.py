"""A silo takes part in runs of the same wire and the same code, or of code that its owner accepts."""

from __future__ import annotations

from dataclasses import replace

from client.node.agreement import refusal
from conf.code_digest import release_digest, run_digest, run_files
from conf.schema import PolicyConf, Silo
from strategies.wire import protocol
from strategies.wire.run_code import RunCode

FILES = run_files("digits", "mlp", "fedavg")
OURS = RunCode(protocol.PROTOCOL, run_digest(FILES), release_digest(), FILES)
OTHER = RunCode(protocol.PROTOCOL, "1" * 64, "2" * 64, FILES)
NORTH = Silo("north")


def accepting(*digests: str) -> Silo:
    return Silo("north", policy=PolicyConf(code=list(digests)))


def said(code: RunCode, silo: Silo = NORTH) -> str | None:
    error = refusal(code.to_headers(), silo, foreign_runs=False)
    return None if error is None else str(error)


def test_the_same_code_is_joined_whatever_the_rest_of_the_release_is() -> None:
    assert said(OURS) is None
    assert said(replace(OURS, release="2" * 64)) is None


def test_other_code_is_refused_with_both_digests_and_the_way_out() -> None:
    reason = said(OTHER)
    assert reason is not None and reason.startswith("MDW-331: north runs the code ")
    assert OURS.digest[:12] in reason and OURS.release[:12] in reason
    assert OTHER.digest[:12] in reason and OTHER.release in reason and "policy.code" in reason


def test_what_the_owner_lists_is_joined_beside_the_silo_s_own() -> None:
    silo = accepting("3" * 64, OTHER.release)
    assert said(OTHER, silo) is None
    assert said(OURS, silo) is None
    assert said(OTHER, accepting(OTHER.digest)) is None
    assert "MDW-331" in str(said(OTHER, accepting("3" * 64)))


def test_an_accepted_release_may_name_files_that_this_one_lacks() -> None:
    code = replace(OTHER, files=("client/tasks/other.py",))
    assert "MDW-336: The run needs client/tasks/other.py" in str(said(code))
    assert said(code, accepting(OTHER.release)) is None


def test_another_wire_is_refused_first_and_no_list_allows_it() -> None:
    code = replace(OTHER, wire=protocol.PROTOCOL + 1)
    reason = said(code, accepting(OTHER.release, OTHER.digest))
    assert reason is not None and reason.startswith(
        f"MDW-338: The server speaks version {protocol.PROTOCOL + 1}"
    )


def test_a_stock_server_is_joined_only_where_the_owner_asked_for_it() -> None:
    assert "MDW-331" in str(refusal([], NORTH, foreign_runs=False))
    assert refusal([], NORTH, foreign_runs=True) is None


def test_a_description_that_can_not_be_read_refuses_the_run_and_not_the_server() -> None:
    reason = refusal([("meadow-wire", "1")], NORTH, foreign_runs=True)
    assert reason is not None and reason.code == "MDW-337"
