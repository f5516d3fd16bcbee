"""How far AUROC and AUPRC of binned scores are from the truth: which bins, and how many.

    python benchmarks/score_bins.py                       # 100,000 examples, five draws of each case
    python benchmarks/score_bins.py --examples 1000000 --draws 1

Scores are log-odds: of a calibrated model of three qualities, and of models ten and a hundred times too sure (their
probabilities are 0 or 1 in float32) or ten times too unsure. Each row is the worst of its cases and draws: how far
the value is from scikit-learn's on all scores, and the bound that the histogram itself gives.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from client.tasks.kinds.score_bins import auprc, auroc, bin_of

Scores = NDArray[np.float64]
Binning = Callable[[Scores], NDArray[np.int64]]
SURE = {
    "calibrated": 1.0,
    "10 times too unsure": 0.1,
    "10 times too sure": 10.0,
    "100 times": 100.0,
}
"""What log-odds are multiplied by."""
QUALITIES = (1.0, 2.0, 3.5)
"""How many standard deviations positives are from negatives."""


def of_probability(bins: int) -> Binning:
    """Equal parts of the probability from 0 to 1."""

    def bin_scores(scores: Scores) -> NDArray[np.int64]:
        probability = 1 / (1 + np.exp(-np.clip(scores, -700, 700)))
        return np.minimum((probability * bins).astype(np.int64), bins - 1)

    return bin_scores


def of_logit(bins: int, reach: float = 16.0) -> Binning:
    """Equal parts of the log-odds from -reach to reach."""

    def bin_scores(scores: Scores) -> NDArray[np.int64]:
        place = (scores + reach) / (2 * reach) * bins
        return np.clip(place, 0, bins - 1).astype(np.int64)

    return bin_scores


def ours(bins: int) -> Binning:
    """Those of `client.tasks.kinds.score_bins`."""

    def bin_scores(scores: Scores) -> NDArray[np.int64]:
        return bin_of(torch.from_numpy(scores), bins).numpy()

    return bin_scores


BINNINGS = {
    "1,000 of the probability": of_probability(1000),
    "4,096 of the logit, -16 to 16": of_logit(4096),
    "16,384 of the logit, -16 to 16": of_logit(16_384),
    "4,096 by octaves": ours(4096),
    "16,384 by octaves": ours(16_384),
    "65,536 by octaves": ours(65_536),
}


@dataclass
class Worst:
    """The largest of each over cases and draws."""

    auprc: float = 0.0
    auprc_bound: float = 0.0
    auroc: float = 0.0
    auroc_bound: float = 0.0

    def take(self, positive: NDArray[np.bool_], scores: Scores, binning: Binning) -> None:
        """Compare one draw's values with scikit-learn's."""
        places = binning(scores)
        bins = int(places.max()) + 1
        counts = torch.from_numpy(
            np.stack([np.bincount(places[side], minlength=bins) for side in (~positive, positive)])
        )
        precision = auprc(counts)
        area = auroc(counts)
        off = abs(precision.value - average_precision_score(positive, scores))
        off_area = abs(area.value - roc_auc_score(positive, scores))
        assert off <= precision.error and off_area <= area.error, "the bound is none"
        self.auprc = max(self.auprc, off)
        self.auprc_bound = max(self.auprc_bound, precision.error)
        self.auroc = max(self.auroc, off_area)
        self.auroc_bound = max(self.auroc_bound, area.error)


def draws(
    examples: int, share: float, times: float, count: int
) -> Iterator[tuple[NDArray[np.bool_], Scores]]:
    """Yield which examples are positive, and their log-odds."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        positive = rng.random(examples) < share
        noise = rng.normal(size=examples)
        for quality in QUALITIES:
            seen = noise + quality * positive
            log_odds = quality * seen - quality**2 / 2 + np.log(share / (1 - share))
            # As a model gives them.
            yield positive, (log_odds * times).astype(np.float32).astype(np.float64)


def main() -> None:
    """Print a table for each share of positives."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.002, 0.0013, 0.5])
    options = parser.parse_args()
    print("| positives | model | bins | AUPRC off | its bound | AUROC off | its bound |")
    print("|---|---|---|---|---|---|---|")
    for share in options.shares:
        for model, times in SURE.items():
            worst = {name: Worst() for name in BINNINGS}
            for positive, scores in draws(options.examples, share, times, options.draws):
                for name, binning in BINNINGS.items():
                    worst[name].take(positive, scores, binning)
            for name, one in worst.items():
                numbers = (one.auprc, one.auprc_bound, one.auroc, one.auroc_bound)
                cells = " | ".join(f"{number:.1e}" for number in numbers)
                print(f"| {share:.2%} | {model} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
