"""Federated averaging (McMahan et al. 2017, arXiv 1602.05629, algorithm 1).

W_{t+1} = sum_k n_k/n * w_k.
"""

from __future__ import annotations

from strategies.algorithm import Algorithm


class FedAvg(Algorithm):
    """The mean of the silos' models, weighted by their examples; the silos just train."""
