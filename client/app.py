"""The Flower ClientApp of a silo: message -> run scope -> task -> loop -> reply."""

from __future__ import annotations

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client import loop
from client.batches import length
from client.cache import Warm, warm
from client.context_state import state_mod
from client.malloc import keep_activations_mapped
from client.policy import check_examples, check_run, for_evaluation
from client.silo_settings import silo_of
from conf.errors import WireError
from conf.schema import RunScope, Silo
from conf.seeds import seed_for
from strategies.wire import protocol, run_config

keep_activations_mapped()
app = ClientApp(mods=[state_mod])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model on the silo's training split for the run's local epochs."""
    config, scope, silo = _config(message), run_scope(message), silo_of(context)
    here = _allowed(message, scope, silo)
    here.model.load_state_dict(
        protocol.to_state(protocol.records(message.content, ArrayRecord)[protocol.ARRAYS])
    )
    round = int(config[protocol.ROUND])  # type: ignore[arg-type]  # checked by run_scope
    metrics = loop.train(
        here.model,
        here.data.train,
        here.task,
        scope.trainer,
        seed=seed_for(scope.run.seed, silo.name, round, "train"),
        round=round,
        rounds=scope.run.rounds,
        proximal_mu=float(config.get(protocol.PROXIMAL_MU, 0.0)),  # type: ignore[arg-type]
    )
    arrays = protocol.to_record(here.model.state_dict())
    return Message(
        RecordDict({protocol.ARRAYS: arrays, protocol.METRICS: MetricRecord({**metrics})}),
        reply_to=message,
    )


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the global model on the silo's held-out split; no examples held out, no metrics."""
    scope, silo = run_scope(message), silo_of(context)
    here = _allowed(message, scope, silo)
    here.model.load_state_dict(
        protocol.to_state(protocol.records(message.content, ArrayRecord)[protocol.ARRAYS])
    )
    metrics = loop.evaluate(
        here.model, here.data.held_out, here.task, for_evaluation(scope.trainer, silo)
    )
    return Message(RecordDict({protocol.METRICS: MetricRecord({**metrics})}), reply_to=message)


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say which silo this is, to a grid that knows only node ids."""
    config = ConfigRecord(
        {protocol.PROTOCOL_KEY: protocol.PROTOCOL, protocol.SILO: silo_of(context).name}
    )
    return Message(RecordDict({protocol.CONFIG: config}), reply_to=message)


def _allowed(message: Message, scope: RunScope, silo: Silo) -> Warm:
    """Return what is warm for a run that the silo's owner allows; raises SiloError MDW-340 or 341."""
    check_run(scope, silo, int(_config(message)[protocol.ROUND]))  # type: ignore[arg-type]  # checked by run_scope
    here = warm(scope, silo)
    check_examples(length(here.data.train), silo)
    return here


def run_scope(message: Message) -> RunScope:
    """Return the run-scoped configuration of a message, checked against this tree's own schema.

    Raises WireError MDW-601 for another protocol or a missing record, MDW-602 for a wrong digest, and
    ConfigError where `strategies.wire.run_config` refuses a key or value.
    """
    config = _config(message)
    if config.get(protocol.PROTOCOL_KEY) != protocol.PROTOCOL or not isinstance(
        config.get(protocol.ROUND), int
    ):
        raise WireError(
            "MDW-601",
            f"The server speaks protocol {config.get(protocol.PROTOCOL_KEY)!r}, this silo {protocol.PROTOCOL}.",
            "Install the same version of Meadow on both sides.",
        )
    text = str(config.get(protocol.RUN_CONFIG, ""))
    if run_config.digest(text) != config.get(protocol.RUN_DIGEST):
        raise WireError(
            "MDW-602", "The run's configuration does not match its digest.", "Start the run again."
        )
    return run_config.unpack(text)


def _config(message: Message) -> ConfigRecord:
    records = protocol.records(message.content, ConfigRecord)
    if protocol.CONFIG not in records:
        raise WireError(
            "MDW-601", "The message has no config record.", "Send it through Meadow's round loop."
        )
    return records[protocol.CONFIG]
