"""The Flower ClientApp of a silo: message -> run scope -> task -> loop -> reply."""

from __future__ import annotations

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client import loop
from client.batches import length
from client.malloc import keep_activations_mapped
from client.policy import check_examples, check_run, for_evaluation
from client.silo import silo_of
from client.state import state_mod
from client.warm import Warm, warm
from conf import travel
from conf.errors import WireError
from conf.schema import RunScope, Silo
from conf.seeds import seed_for
from strategies import wire

keep_activations_mapped()
app = ClientApp(mods=[state_mod])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model on the silo's training split for the run's local epochs."""
    config, scope, silo = _config(message), run_scope(message), silo_of(context)
    here = _allowed(message, scope, silo)
    here.model.load_state_dict(wire.to_state(wire.records(message.content, ArrayRecord)[wire.ARRAYS]))
    round = int(config[wire.ROUND])  # type: ignore[arg-type]  # checked by run_scope
    metrics = loop.train(
        here.model,
        here.data.train,
        here.task,
        scope.trainer,
        seed=seed_for(scope.run.seed, silo.name, round, "train"),
        round=round,
        rounds=scope.run.rounds,
        proximal_mu=float(config.get(wire.PROXIMAL_MU, 0.0)),  # type: ignore[arg-type]
    )
    arrays = wire.to_record(here.model.state_dict())
    return Message(RecordDict({wire.ARRAYS: arrays, wire.METRICS: MetricRecord({**metrics})}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the global model on the silo's held-out split; no examples held out, no metrics."""
    scope, silo = run_scope(message), silo_of(context)
    here = _allowed(message, scope, silo)
    here.model.load_state_dict(wire.to_state(wire.records(message.content, ArrayRecord)[wire.ARRAYS]))
    metrics = loop.evaluate(here.model, here.data.held_out, here.task, for_evaluation(scope.trainer, silo))
    return Message(RecordDict({wire.METRICS: MetricRecord({**metrics})}), reply_to=message)


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say which silo this is, to a grid that knows only node ids."""
    config = ConfigRecord({wire.PROTOCOL_KEY: wire.PROTOCOL, wire.SILO: silo_of(context).name})
    return Message(RecordDict({wire.CONFIG: config}), reply_to=message)


def _allowed(message: Message, scope: RunScope, silo: Silo) -> Warm:
    """Return what is warm for a run that the silo's owner allows; raises SiloError MDW-340 or 341."""
    check_run(scope, silo, int(_config(message)[wire.ROUND]))  # type: ignore[arg-type]  # checked by run_scope
    here = warm(scope, silo)
    check_examples(length(here.data.train), silo)
    return here


def run_scope(message: Message) -> RunScope:
    """Return the run-scoped configuration of a message, checked against this tree's own schema.

    Raises WireError MDW-601 for another protocol or a missing record, MDW-602 for a wrong digest, and
    ConfigError where `conf.travel` refuses a key or value.
    """
    config = _config(message)
    if config.get(wire.PROTOCOL_KEY) != wire.PROTOCOL or not isinstance(config.get(wire.ROUND), int):
        raise WireError(
            "MDW-601",
            f"The server speaks protocol {config.get(wire.PROTOCOL_KEY)!r}, this silo {wire.PROTOCOL}.",
            "Install the same version of Meadow on both sides.",
        )
    text = str(config.get(wire.RUN_CONFIG, ""))
    if travel.digest(text) != config.get(wire.RUN_DIGEST):
        raise WireError("MDW-602", "The run's configuration does not match its digest.", "Start the run again.")
    return travel.unpack(text)


def _config(message: Message) -> ConfigRecord:
    records = wire.records(message.content, ConfigRecord)
    if wire.CONFIG not in records:
        raise WireError("MDW-601", "The message has no config record.", "Send it through Meadow's round loop.")
    return records[wire.CONFIG]
