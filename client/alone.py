"""A silo's own model, for comparison: trained here on the silo's examples alone, with as many epochs as
the federated one had, scored here, and forgotten.

What leaves is what leaves of an evaluation of the test split: sums, under the owner's thresholds.
The model itself stays.

    MDW-341 what the owner does not allow
"""

from __future__ import annotations

from torch import Tensor

from client import loop
from client.cache import Loaded
from client.device import device_of
from client.flat_copy import to_device
from client.policy import for_evaluation
from client.withholding import Told, told
from conf.allowed import ALLOW_LIST
from conf.errors import SiloError, WireError
from conf.schema import RunScope, Silo
from conf.seeds import seed_for

WANTED = ("silos", "all")
"""Of `run.baseline`, what asks for such a model."""


def check_alone(scope: RunScope, silo: Silo, rounds: int) -> None:
    """Raise WireError MDW-601 where the run's configuration does not ask for such a model, or not for
    so many rounds of it, and SiloError MDW-341 where the owner does not allow it.
    """
    if scope.run.baseline not in WANTED or not 0 < rounds <= scope.run.rounds:
        raise WireError(
            "MDW-601",
            f"The server asks {silo.name} to train {rounds} rounds alone, and the run's own"
            f" configuration says run.baseline={scope.run.baseline} and {scope.run.rounds} rounds.",
            "Install the same version of Meadow on both sides.",
        )
    allowed = silo.policy.train_alone
    if allowed is None:
        # The second version is an allow-list: what it does not name is not allowed.
        allowed = silo.policy.version != ALLOW_LIST
    if not allowed:
        raise SiloError(
            "MDW-341",
            f"The owner of {silo.name} does not allow run.baseline={scope.run.baseline}.",
            "Allowed: run.baseline=none, or policy.train_alone=true at the silo.",
            {"refused": f"run.baseline={scope.run.baseline}"},
        )


def scored_alone(
    loaded: Loaded, scope: RunScope, silo: Silo, first: dict[str, Tensor], rounds: int
) -> Told:
    """Return what the owner tells of a model that was trained from the `first` weights on this silo's
    training split alone, on its test split.

    Raises DataError as `loop.train` and `loop.evaluate` do.
    """
    model = loaded.model
    model.load_state_dict(to_device(first, device_of(model)))
    for round in range(1, rounds + 1):
        loop.train(
            model,
            loaded.data.train,
            loaded.task,
            loaded.trainer,
            seed=seed_for(scope.run.seed, silo.name, round, "train"),
            round=round,
            rounds=scope.run.rounds,
        )
    trainer = for_evaluation(loaded.trainer, silo)
    evaluation = loop.evaluate(model, loaded.data.test, loaded.task, trainer)
    return told(evaluation, loaded.task, silo.policy)
