"""The parts of GPUs that Ray's actors ask for: all GPUs are used, and all actors fit."""

from __future__ import annotations

import pytest

from conf.errors import SiloError
from server.engines.ray_gpus import gpus_of, share, sharers_on, shares, told


@pytest.mark.parametrize("processes", range(1, 20))
@pytest.mark.parametrize("gpus", range(1, 9))
def test_each_actor_finds_room_where_ray_puts_it(processes: int, gpus: int) -> None:
    free = [10_000] * gpus
    for part in shares(processes, gpus):
        asked = round(part * 10_000)
        assert asked >= 1
        # Ray takes the GPU with the least room that is enough.
        fitting = [n for n in range(gpus) if free[n] >= asked]
        assert fitting, (processes, gpus, free)
        taken = min(fitting, key=lambda n: free[n])
        free[taken] -= asked
    used = sum(left < 10_000 for left in free)
    assert used == min(processes, gpus), "no GPU is idle while others are shared"


def test_without_gpus_no_part_of_one_is_asked_for() -> None:
    assert shares(3, 0) == []


def test_as_many_actors_fit_as_share_a_gpu() -> None:
    for sharers in range(1, 100):
        assert round(share(sharers) * 10_000) * sharers <= 10_000


MIXED = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 16.0}]


def test_a_cluster_s_actors_are_where_its_gpus_are() -> None:
    assert gpus_of(MIXED, None) == 1
    # Four cores are beside the GPU: more actors would wait for ever.
    assert sharers_on(MIXED, 20, 1) == 4
    assert sharers_on(MIXED, 2, 1) == 2
    assert sharers_on([{"CPU": 8.0, "GPU": 4.0}], 4, 4) == 1
    assert gpus_of([{"CPU": 8.0}], None) == 0


def test_more_gpus_than_a_cluster_has_are_refused() -> None:
    with pytest.raises(SiloError, match=r"MDW-345.*the Ray cluster has 1"):
        gpus_of(MIXED, 2)


def test_an_actor_is_told_what_it_has() -> None:
    assert told(2, 3, None) == {"MEADOW_GPU": "0/3"}
    assert told(0, 1, None) == {}
    assert told(0, 1, 0) == {"MEADOW_GPU": "none", "CUDA_VISIBLE_DEVICES": ""}
