"""One of several processes that are to train together is refused by name, before it connects."""

from __future__ import annotations

import pytest

from client.node.one_process import SIZES, check_alone
from conf.errors import SiloError


@pytest.mark.parametrize("name", SIZES)
def test_one_of_several_processes_is_refused_by_name(name: str) -> None:
    with pytest.raises(SiloError, match=rf"MDW-358: north was started as 4 processes \({name}=4\)"):
        check_alone("north", {name: "4"})


@pytest.mark.parametrize("size", ["1", "", "many"])
def test_a_process_alone_is_not(size: str) -> None:
    check_alone("north", {"WORLD_SIZE": size})
    check_alone("north", {})
