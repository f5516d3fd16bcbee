"""An address is written in one way, and is in a network or not."""

from __future__ import annotations

import pytest

from server.orchestrator.addresses import Networks, plain_address


def test_a_mapped_address_is_the_ipv4_address() -> None:
    assert plain_address("::ffff:10.1.2.3") == "10.1.2.3"
    assert plain_address("fe80::1%eth0") == "fe80::1"
    assert plain_address("not one") == "not one"


def test_a_list_holds_addresses_and_networks() -> None:
    networks = Networks(["10.1.0.0/16", "192.0.2.7", "2001:db8::/32"])
    inside = [one in networks for one in ("10.1.9.9", "192.0.2.7", "2001:db8::5")]
    outside = [one in networks for one in ("10.2.0.1", "192.0.2.8", "not one")]
    assert inside == [True] * 3 and outside == [False] * 3
    with pytest.raises(ValueError):
        Networks(["10.1.0.0/99"])
