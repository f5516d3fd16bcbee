"""`meadow check` of a relay: it answers, it is not there, it calls itself otherwise; nothing is signed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from azureml_jobs.preflight.findings import ERROR, OK, WARNING
from azureml_jobs.preflight.relay_reach import met
from conf.schema import OutboundConf
from tests.azureml_jobs.relay.place import RelayThread, relay_of
from tests.faults.federation import Federation, free_port


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayThread]:
    folder = tmp_path_factory.mktemp("relay")
    (folder / "federation").mkdir()
    with relay_of(folder, Federation(folder / "federation", 1)) as made:
        yield made


def test_a_relay_that_answers_is_ok_and_says_its_name(relay: RelayThread) -> None:
    found = met("north", relay.url, "federation", OutboundConf(ca=str(relay.ca.file)))
    assert (found.part, found.check, found.state) == ("north", "relay", OK)
    assert found.seen.startswith("127.0.0.1 answers in ")


@pytest.mark.parametrize(
    ("url", "federation", "code"),
    [
        ("https://127.0.0.1:{other}", "federation", "MDW-692"),
        ("https://127.0.0.1:{port}", "nobodys", "MDW-694"),
        ("https://localhost:{port}", "federation", "MDW-766"),
    ],
)
def test_one_that_does_not_is_a_warning_with_its_code_and_fix(
    relay: RelayThread, url: str, federation: str, code: str
) -> None:
    address = url.format(port=relay.port, other=free_port())
    found = met("north", address, federation, OutboundConf(ca=str(relay.ca.file)))
    assert found.state == WARNING
    assert found.seen.startswith(code)
    assert found.fix


def test_an_address_that_can_not_be_meant_is_an_error_and_azures_a_warning() -> None:
    assert met("north", "https://a/b/c", "federation", OutboundConf()).state == ERROR
    azure = met("north", "sb://ns.servicebus.windows.net/hc", "federation", OutboundConf())
    assert azure.state == WARNING
    assert "never tried" in azure.seen
