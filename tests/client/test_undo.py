"""A step that is taken twice leaves the bits of one that was taken once."""

from __future__ import annotations

import torch
from torch import nn

from client.undo import Undo

CPU = torch.device("cpu")


def test_draws_and_running_means_are_put_back() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))
    undo = Undo(net, CPU)
    torch.manual_seed(1)
    for _ in range(3):
        batch = torch.rand(5, 3)
        undo.mark()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        first = net(batch)
        assert not torch.equal(before["0.running_mean"], net.state_dict()["0.running_mean"])
        undo.back()
        assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
        assert torch.equal(net(batch), first)


def test_what_does_not_change_is_copied_once() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2))
    net.register_buffer("table", torch.zeros(4))
    net.register_buffer("count", torch.zeros(1))
    undo = Undo(net, CPU)
    kept = {tuple(copy.shape): copy for copy, _ in undo._others}
    versions = {shape: copy._version for shape, copy in kept.items()}
    undo.mark()
    net.get_buffer("count").add_(1)
    undo.mark()
    undo.mark()
    # The count where it has changed, never the table; running means are in lists of one type.
    assert kept[1,]._version == versions[1,] + 1 and kept[4,]._version == versions[4,]
    assert sorted(len(buffers) for _, buffers in undo._means) == [1, 2]
    net.get_buffer("count").add_(1)
    undo.back()
    assert net.get_buffer("count").item() == 1
