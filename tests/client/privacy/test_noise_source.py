"""The randomness of a private round is the operating system's, all of it."""

from __future__ import annotations

import torch

from client.privacy.noise_source import WORDS, Seeds


def words(generator: torch.Generator) -> torch.Tensor:
    return generator.get_state()[24 : 24 + 8 * WORDS].view(WORDS, 8)


def test_torch_s_own_seed_on_a_cpu_has_32_bits_and_ours_has_all() -> None:
    one = torch.Generator().manual_seed(5)
    other = torch.Generator().manual_seed(5 + 2**32)
    assert torch.equal(torch.randn(9, generator=one), torch.randn(9, generator=other)), (
        "why the whole state is drawn: drop it when this no longer holds"
    )
    first, second = (Seeds(None, "north", 1).generator("noise") for _ in range(2))
    different = (words(first) != words(second)).any(dim=1)
    assert different.all(), "every word of the state is drawn"
    assert not torch.equal(torch.randn(9, generator=first), torch.randn(9, generator=second))


def test_what_comes_of_it_is_still_normal() -> None:
    drawn = torch.randn(200_000, generator=Seeds(None, "north", 1).generator("noise"))
    assert abs(float(drawn.mean())) < 0.02 and abs(float(drawn.std()) - 1) < 0.01


def test_with_a_test_seed_each_use_has_its_own_numbers_again() -> None:
    def of(silo: str, round: int, what: str) -> torch.Tensor:
        return torch.randn(9, generator=Seeds(1, silo, round).generator(what))

    first = of("north", 1, "noise")
    assert torch.equal(first, of("north", 1, "noise"))
    for other in (of("south", 1, "noise"), of("north", 2, "noise"), of("north", 1, "salt")):
        assert not torch.equal(first, other)
