"""What a silo has answered of evaluations whose sums had noise, in the storage of its account.

    <silo>/answers/<key>.json     the noised sums of one evaluation, and their noise; never changed

An evaluation that is asked again gets what was kept, and never draws noise again: two answers about
the same examples would tell more than one. The answer is kept before it is noted in the account, and
noted before it is sent. So a process that dies over it leaves an answer that nobody has seen, which is
noted and sent when it is asked again. The account's entry names the answer by its digest.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

import torch

from azureml_jobs.storage.base import Store, StoreMissing
from azureml_jobs.storage.opened import open_store
from client.privacy.noised_sums import NoisedSums, by_name
from client.sums import Sums
from conf.canonical import canonical

MOST_BYTES = 2**16
"""Of an answer: some thousands of numbers."""
VERSION = 1


@dataclass(frozen=True)
class Kept:
    """One answer: the noised sums, the noise multiplier that they have, and the digest of both."""

    noised: Sums
    noise: float
    digest: str


class KeptAnswers:
    """The answers of one silo in a store."""

    def __init__(self, store: Store, silo: str) -> None:
        self._store = store
        self._silo = silo

    @staticmethod
    def at(where: str, silo: str) -> KeptAnswers:
        """Return those in a folder or a container."""
        return KeptAnswers(open_store(where, MOST_BYTES), silo)

    def read(self, key: str, form: NoisedSums) -> Kept | None:
        """Return a kept answer; None where there is none.

        Raises ValueError for one that is damaged, or of another form.
        """
        try:
            data = self._store.read(self._name(key))
        except StoreMissing:
            return None
        try:
            facts = json.loads(data)
            values = facts["values"]
            noise = float(facts["noise"])
            if not 0 < noise < math.inf:
                raise ValueError(f"its noise is {noise}")
            if facts["version"] != VERSION or values.keys() != {p.name for p in form.parts}:
                raise ValueError("it is of another form")
            noised = {p.name: _row(values[p.name], p.elements) for p in form.parts}
        except (TypeError, LookupError, AttributeError, RecursionError) as error:
            raise ValueError(str(error)) from error
        return Kept(noised, noise, hashlib.sha256(data).hexdigest())

    def keep(self, key: str, form: NoisedSums, noised: Sums, noise: float) -> Kept:
        """Keep an answer and return it, or the one that another process has kept before."""
        facts = {"version": VERSION, "noise": noise, "values": by_name(noised)}
        data = json.dumps(facts, allow_nan=False).encode()
        self._store.put_if_absent(self._name(key), data)
        kept = self.read(key, form)
        assert kept is not None
        return kept

    def _name(self, key: str) -> str:
        return f"{self._silo}/answers/{key}.json"


def key_of(run: str, round: int, split: str, model: str) -> str:
    """Return the name of an evaluation: of a model, by its digest, on a split after a round."""
    facts = {"run": run, "round": round, "split": split, "model": model}
    return hashlib.sha256(canonical(facts)).hexdigest()


def _row(values: list[float], elements: int) -> torch.Tensor:
    row = torch.tensor([float(value) for value in values], dtype=torch.float64)
    if len(row) != elements or not bool(row.isfinite().all()):
        raise ValueError("its numbers are not those of the task's sums")
    return row
