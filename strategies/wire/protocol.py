"""What travels: every record name, key, unit and size that the server and a silo must agree on.

Server to silo, `train` and `evaluate`:  arrays (the global model), config (the keys below),
                                         and in `train` what the algorithm sends beside the model.
Silo to server, `train`:                 arrays (the silo's model; of a compressed update only what is
                                         not encoded), change (what is: `strategies.compression`),
                                         metrics (num-examples, loss, seconds, ...), software
                                         (versions; for the records), receipt (of the node), account
                                         (of a private run), and the records that the algorithm
                                         declares (`strategies.algorithm`).
Silo to server, `evaluate`:              sums (of the silo's split, by the task's own names),
                                         metrics (num-examples, loss, the task's metrics, seconds).
`query.ready` and its reply:             config (protocol, silo); asked before round 1, an error where the silo can't
                                         take part.
`query.statistics` and its reply:        config (as in `train`); sums (of the silo's training split, by the task's
                                         own names), where the task's model has an input layer and the owner tells them.
`query.alone` and its reply:             arrays (the first weights), config (the round is how many are trained);
                                         sums and metrics as of `evaluate`, of the silo's own model on its test split.
                                         Asked after the last round, with `run.baseline`; the model stays.
`query.smoke` and its reply:             arrays (as many bytes as are tried; the reply has them in reverse), config,
                                         and in the reply facts (of the silo's machine); in a run of task=smoke.
`query.closing` and its reply:           config (the ledger's last anchor, the model's digest) and receipt; told after
                                         the last round to Meadow's own nodes, which answer without their app.
`query.hello` and its reply:             config (protocol, silo); asked where a grid does not know its silos' names.
The names are Flower's own defaults wherever Flower has one, so that stock strategies fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from strategies.wire.objects import BFLOAT16, DTYPES, array_of, as_declared, elements

if TYPE_CHECKING:
    # Imported where tensors are made: who reads a ledger's digests need not wait for it.
    import torch

R = TypeVar("R", ArrayRecord, ConfigRecord, MetricRecord)

PROTOCOL: Final = 2
"""The version of this contract; a silo refuses any other."""

# Records
ARRAYS: Final = "arrays"
STEP: Final = "step"
"""A config record beside a model: which one it is (`STEP_TO`, its digest), and, where only what it
differs by is sent, from which one (`STEP_FROM`) and which arrays are encoded (`STEP_CODED`, names as
JSON); `strategies.compression.step`.
"""
STEP_TO: Final = "to"
STEP_FROM: Final = "from"
STEP_CODED: Final = "coded"
CHANGE: Final = "change"
"""Of an update: the encoded change of the model's parameters (`strategies.compression.form`)."""
CONFIG: Final = "config"
METRICS: Final = "metrics"
SUMS: Final = "sums"
"""Of an evaluation: int64 and float64 arrays that add up over silos (`client.sums`)."""
FACTS: Final = "facts"
"""What a silo says of its machine (`client.smoke_answer`), a config record in the reply to
`query.smoke`.
"""
SOFTWARE: Final = "software"
"""What the silo runs (`strategies.wire.software`), a config record beside its update."""
ACCOUNT: Final = "account"
"""A reminder of the silo's account (`client.privacy.account`), a config record beside the update of
a private run: `{REMINDER: text}`.
"""
REMINDER: Final = "meadow-account"
"""The last reminder that the server has of the silo's account, for the silo to compare."""
RECEIPT: Final = "receipt"
"""The silo's signed answer to the ledger's anchor (`strategies.wire.receipts`), a config record
beside its update."""

# Keys of the config record
ROUND: Final = "server-round"
"""The round, counted from 1 (Flower's key)."""
SPLIT: Final = "meadow-split"
"""Which of the silo's splits an evaluation is of: `VALIDATION` in a round, `TEST` after the last."""
VALIDATION: Final = "validation"
TEST: Final = "test"
PROXIMAL_MU: Final = "proximal-mu"
"""The weight of the proximal term, as Flower's own FedProx tells it (Flower's key); ours is in the
run's configuration.
"""
PROTOCOL_KEY: Final = "meadow-protocol"
RUN_CONFIG: Final = "meadow-run"
"""The run-scoped configuration as canonical JSON (`strategies.wire.run_config`)."""
RUN_DIGEST: Final = "meadow-digest"
"""SHA-256 of that JSON, in hex."""
RUN_ID: Final = "meadow-run-id"
"""Meadow's run id: the same when a run is resumed, unlike Flower's."""
COUNTED: Final = "meadow-counted"
"""The last round of the run in which an update of this silo counted, 0 for none.

The silo's state is the one that it left then. A round that was lost, refused or never closed leaves
none: otherwise a silo would go on from what the server never had.
"""
LEDGER: Final = "meadow-ledger"
"""The anchor of the server's ledger after the last round (`server.run.ledger.Anchor`), for the silo
to keep.
"""
LEDGER_SIGNATURE: Final = "meadow-ledger-signature"
LEDGER_CERTIFICATE: Final = "meadow-ledger-certificate"
"""The orchestrator's signature of that anchor, and the certificate of its key
(`strategies.wire.receipts`); not there where nobody signs.
"""
CLIP_NORM: Final = "meadow-clip-norm"
"""The norm to which a silo clips its change in this round, under privacy=silo_dp."""
SERVER_NOISE: Final = "meadow-server-noise"
"""The noise that the server says it will add to the sum of the changes, in units of that norm."""
SILO: Final = "meadow-silo"
"""The silo's name, in the reply to `query.hello`."""

# Keys of the metrics record
NUM_EXAMPLES: Final = "num-examples"
"""Examples trained on or evaluated on: the weight of the reply (Flower's key)."""
SIZE: Final = "size"
"""What the task's size counts in the silo's training set: tokens, pixels. Only where it weighs."""
LOSS: Final = "loss"
EPSILON: Final = "epsilon"
"""What the run has cost each of the silo's examples so far, or the silo as a whole, as the silo
itself counts it; which of the two is the run's kind of privacy.
"""
RENYI_EPSILON: Final = "epsilon-renyi"
"""The same, counted by Rényi divergences."""
NOISE: Final = "noise-multiplier"
WITHIN_CLIP: Final = "within-clip"
"""1 where a silo's change was within the clipping norm before it was clipped, else 0; under
privacy=silo_dp with clipping=adaptive, and never shown: the server adds noise to the count of them.
"""
SECONDS: Final = "seconds"
"""Seconds in the training or evaluation loop, data loading included."""
SAMPLES_PER_SECOND: Final = "samples-per-second"
SKIPPED_STEPS: Final = "skipped-steps"
"""Optimizer steps that were not taken, because fp16 overflowed at any scale; in fp16 alone."""
SECONDS_COMPILING: Final = "seconds-compiling"
"""Seconds in which the model was compiled, before the training's began; where it is compiled."""
OF_THE_MACHINE: Final = (SECONDS, SAMPLES_PER_SECOND, SKIPPED_STEPS, SECONDS_COMPILING)
"""What a training says of the machine and not of the data: no strategy makes anything of it."""
WITHHELD: Final = "withheld"
WITHHELD_METRIC: Final = "withheld:"
"""Before a metric's name, with a 1: the silo's owner does not let that metric out."""
"""1 in the reply of an evaluation whose small counts the silo's owner withholds."""

# What an update weighs by (`strategy.weighting`)
BY_EXAMPLES: Final = "examples"
BY_SIZE: Final = "size"
EQUAL: Final = "equal"

HELLO: Final = "query.hello"
READINESS: Final = "query.ready"
STATISTICS: Final = "query.statistics"
ALONE: Final = "query.alone"
SMOKE: Final = "query.smoke"
CLOSING: Final = "query.closing"


def weight_in(metrics: Mapping[str, object], weighting: str) -> object:
    """Return what an update with such metrics weighs; nothing is checked of what a silo says."""
    if weighting == EQUAL:
        return 1
    return metrics.get(SIZE if weighting == BY_SIZE else NUM_EXAMPLES)


def to_record(state: Mapping[str, torch.Tensor]) -> ArrayRecord:
    """Return a state dict as named arrays, each of its tensor's type."""
    import torch

    # One by one: the constructor of Flower's record makes a second Array of each.
    record = ArrayRecord()
    for name, tensor in state.items():
        here = tensor.detach().cpu()
        if here.dtype == torch.bfloat16:
            # numpy has no such type.
            bits = here.contiguous().view(torch.int16).numpy().view(np.uint16)
            record[name] = as_declared(BFLOAT16, bits)
        else:
            record[name] = array_of(here.numpy())
    return record


def to_wide_record(state: Mapping[str, torch.Tensor]) -> ArrayRecord:
    """Return what an algorithm sends beside the model as named arrays, halves as float32: it is
    computed with at the server, and may be small beside the weights.
    """
    import torch

    half = (torch.bfloat16, torch.float16)
    return to_record({n: t.float() if t.dtype in half else t for n, t in state.items()})


def to_numpy(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Return the named arrays of a record; they may share memory with it and be read-only.

    bfloat16 is seen as uint16; `strategies.wire.half_types` has its numbers.
    """
    return {name: elements(array) for name, array in record.items()}


def to_state(record: ArrayRecord) -> dict[str, torch.Tensor]:
    """Return a record as a state dict of fresh tensors."""
    return {name: _tensor(array) for name, array in record.items()}


def _tensor(array: Array) -> torch.Tensor:
    import torch

    values = np.array(elements(array))
    if array.dtype == BFLOAT16:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def records(content: RecordDict, kind: type[R]) -> dict[str, R]:
    """Return the records of one kind by name.

    Flower's `content.array_records` and its siblings return a view that refers to itself and to the
    content, so that a reply read through them is freed by the garbage collector, much later, and
    not when it is dropped.
    """
    return {name: record for name, record in content.items() if isinstance(record, kind)}


def size(content: RecordDict) -> int:
    """Return the bytes of the values of all arrays in a message."""
    arrays = (
        array for record in records(content, ArrayRecord).values() for array in record.values()
    )
    return sum(math.prod(array.shape) * DTYPES[array.dtype].itemsize for array in arrays)
