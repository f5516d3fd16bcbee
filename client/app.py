"""The Flower ClientApp of a silo: message -> run scope -> task -> loop -> reply."""

from __future__ import annotations

from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor
from torch.utils.data import Dataset

from client import loop, memory, smoke_answer
from client.alone import check_alone, scored_alone
from client.batches import length
from client.border_mod import border_mod
from client.cache import Loaded, load_cached
from client.compute import computed
from client.context_state import state_mod
from client.data_files import fingerprint
from client.device import device_of
from client.device_mod import device_mod
from client.dry_round import dry_round
from client.evaluating import Bound
from client.flat_copy import to_device, to_host
from client.malloc import keep_activations_mapped
from client.memory import Memory
from client.model_step import step_mod
from client.own_software import software
from client.policy import check_examples, check_run, for_evaluation, reported
from client.privacy import noised_evaluation, privacy_unit, private_round
from client.privacy.private_round import tells_metrics
from client.silo_round import SiloRound
from client.silo_settings import data_key, silo_of
from client.tasks.base import Data
from client.update_form import form_at_silo, in_form
from client.withholding import nothing_told, statistics_told, told
from conf.errors import WireError
from conf.schema import RunScope, Silo
from strategies import silo_half_of
from strategies.silo_half import Records, SiloHalf
from strategies.wire import protocol, run_config

keep_activations_mapped()
app = ClientApp(mods=[border_mod, step_mod, state_mod, device_mod])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model on the silo's training split for the run's local epochs."""
    scope = run_scope(message)
    silo = silo_of(context)
    config = _config(message)
    round = int(config[protocol.ROUND])  # type: ignore[arg-type]  # checked by run_scope
    loaded = _load_checked(round, scope, silo, context)
    half = _half(scope, config)
    before = memory.read(context.state)
    memory.check(half, before, config)
    _load(loaded, _weights(message) | before.kept)
    asked = SiloRound(
        loaded,
        scope,
        half,
        silo,
        run=str(config.get(protocol.RUN_ID, "")),
        round=round,
        told=config,
        state=before.half,
        sent=_beside(message),
        scaling=before.scaling,
    )
    private = scope.privacy.is_private
    trained = private_round.train(asked, context) if private else asked.trained()
    leaves, stays = memory.divided(loaded.model.state_dict(), half.keeps)
    form = form_at_silo(scope, loaded.task, half.keeps)
    sent = protocol.records(message.content, ArrayRecord)[protocol.ARRAYS]
    update, left_out = in_form(form, to_host(leaves), sent, silo.name, round, before.left_out)
    memory.write(context.state, Memory(trained.state, stays, trained.scaling, left_out))
    beside = {n: protocol.to_wide_record(to_host(arrays)) for n, arrays in trained.sent.items()}
    # Of a private run a fingerprint would tell when an example is added.
    data = "" if private else fingerprint(silo.data.root, loaded.files, data_key(context))
    how = computed(loaded.trainer, device_of(loaded.model), trained.irreproducible)
    content = RecordDict(
        {
            **beside,
            **update,
            protocol.METRICS: MetricRecord({**reported(trained, scope.strategy, silo)}),
            protocol.SOFTWARE: software(scope, data, how).to_record(),
        }
    )
    if trained.account:
        content[protocol.ACCOUNT] = ConfigRecord({protocol.REMINDER: trained.account})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the global model on the split that the message names, of validation or test.

    Without examples there are no metrics.
    """
    scope = run_scope(message)
    silo = silo_of(context)
    round = int(_config(message)[protocol.ROUND])  # type: ignore[arg-type]  # checked by run_scope
    loaded = _load_checked(round, scope, silo, context)
    if scope.privacy.noises_metrics:
        return Message(_noised(message, scope, silo, context, loaded), reply_to=message)
    if not silo.policy.reveal_counts or not tells_metrics(scope.privacy):
        none = MetricRecord({**nothing_told().metrics})
        return Message(RecordDict({protocol.METRICS: none}), reply_to=message)
    trainer = for_evaluation(loaded.trainer, silo)
    split = _split(_config(message), loaded.data)
    if length(split):
        _load(loaded, _weights(message) | memory.read(context.state).kept)
    evaluation = loop.evaluate(loaded.model, split, loaded.task, trainer)
    said = told(evaluation, loaded.task, silo.policy)
    content = RecordDict(
        {
            protocol.SUMS: protocol.to_record(said.sums),
            protocol.METRICS: MetricRecord({**said.metrics}),
        }
    )
    return Message(content, reply_to=message)


def _noised(
    message: Message, scope: RunScope, silo: Silo, context: Context, loaded: Loaded
) -> RecordDict:
    """Return what a private run's evaluation tells (`client.privacy.noised_evaluation`)."""
    config = _config(message)
    split = _split(config, loaded.data)

    def evaluates(each: Bound) -> loop.Evaluation:
        if length(split):
            _load(loaded, _weights(message) | memory.read(context.state).kept)
        trainer = for_evaluation(loaded.trainer, silo)
        return loop.evaluate(loaded.model, split, loaded.task, trainer, each)

    asked = noised_evaluation.Asked(
        str(config.get(protocol.RUN_ID, "")),
        int(config[protocol.ROUND]),  # type: ignore[arg-type]  # checked by run_scope
        str(config[protocol.SPLIT]),
        protocol.records(message.content, ArrayRecord)[protocol.ARRAYS],
        config,
    )
    return noised_evaluation.answer(asked, loaded.task, scope, silo, context, evaluates)


@app.query("ready")
def ready(message: Message, context: Context) -> Message:
    """Go through a dry round on the silo's first examples (`client.dry_round`)."""
    scope = run_scope(message)
    loaded = _load_checked(1, scope, silo_of(context), context)
    # Its weights are those of nobody: each round brings its own.
    dry_round(loaded.model, loaded.data.train, loaded.task, loaded.trainer, discreet=True)
    return hello(message, context)


@app.query("statistics")
def statistics(message: Message, context: Context) -> Message:
    """Tell the sums of the silo's training split that fit the model's first layer.

    None where the owner tells no counts; without the small ones where the owner withholds these.
    """
    scope = run_scope(message)
    silo = silo_of(context)
    loaded = _load_checked(1, scope, silo, context)
    content = RecordDict()
    if not scope.privacy.is_private and (
        sums := statistics_told(loaded.task, loaded.data, silo.policy)
    ):
        content[protocol.SUMS] = protocol.to_record(sums)
    return Message(content, reply_to=message)


@app.query("alone")
def alone(message: Message, context: Context) -> Message:
    """Train a model of the silo's own from the weights that the message brings, and tell what its
    test split's sums are (`client.alone`).
    """
    scope = run_scope(message)
    silo = silo_of(context)
    rounds = int(_config(message)[protocol.ROUND])  # type: ignore[arg-type]  # checked by run_scope
    check_alone(scope, silo, rounds)
    loaded = _load_checked(rounds, scope, silo, context)
    said = nothing_told()
    if silo.policy.reveal_counts and tells_metrics(scope.privacy) and length(loaded.data.test):
        said = scored_alone(loaded, scope, silo, _weights(message), rounds)
    content = RecordDict({protocol.METRICS: MetricRecord({**said.metrics})})
    if said.sums:
        content[protocol.SUMS] = protocol.to_record(said.sums)
    return Message(content, reply_to=message)


@app.query("smoke")
def smoke(message: Message, context: Context) -> Message:
    """Send back what was sent, and say what this machine is (`client.smoke_answer`)."""
    scope = run_scope(message)
    silo = silo_of(context)
    check_run(scope, silo, 1)
    sent = protocol.records(message.content, ArrayRecord)[protocol.ARRAYS]
    return Message(smoke_answer.answer(sent, scope, silo), reply_to=message)


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say which silo this is, to a grid that knows only node ids."""
    config = ConfigRecord(
        {protocol.PROTOCOL_KEY: protocol.PROTOCOL, protocol.SILO: silo_of(context).name}
    )
    return Message(RecordDict({protocol.CONFIG: config}), reply_to=message)


def _load_checked(round: int, scope: RunScope, silo: Silo, context: Context) -> Loaded:
    """Return data and model for a run that the silo's owner allows.

    Raises SiloError MDW-340, 341, 364, 377 or 386, before any data is read where the run itself is
    not allowed.
    """
    check_run(scope, silo, round)
    private_round.check_simulated(scope.privacy, silo, context)
    privacy_unit.check(scope.privacy, silo)
    loaded = load_cached(scope, silo)
    check_examples(length(loaded.data.train), silo)
    return loaded


def _half(scope: RunScope, config: ConfigRecord) -> SiloHalf:
    """Return what the run's algorithm does at this silo in this round.

    Flower's own FedProx is hosted by the server and unknown here but for the one key it sends.
    """
    return silo_half_of(scope.strategy, {"proximal_mu": config.get(protocol.PROXIMAL_MU)})


def _split(config: ConfigRecord, data: Data) -> Dataset[Any]:
    """Return the split that an evaluation is of; raises WireError MDW-601 for any other."""
    asked = config.get(protocol.SPLIT)
    if asked == protocol.VALIDATION:
        return data.validation
    if asked == protocol.TEST:
        return data.test
    what = f"The server asks for an evaluation on {asked!r:.40}."
    hint = "Install the same version of Meadow on both sides."
    raise WireError("MDW-601", what, hint)


def _beside(message: Message) -> Records:
    """Return what the algorithm's half at the server sent beside the model."""
    found = protocol.records(message.content, ArrayRecord)
    return {n: protocol.to_state(record) for n, record in found.items() if n != protocol.ARRAYS}


def _load(loaded: Loaded, state: dict[str, Tensor]) -> None:
    """Put a model's arrays into the one that is here."""
    loaded.model.load_state_dict(to_device(state, device_of(loaded.model)))


def _weights(message: Message) -> dict[str, Tensor]:
    return protocol.to_state(protocol.records(message.content, ArrayRecord)[protocol.ARRAYS])


def run_scope(message: Message) -> RunScope:
    """Return the run-scoped configuration of a message, checked against this tree's own schema.

    Raises WireError MDW-601 for another protocol or a missing record, MDW-602 for a wrong digest,
    and ConfigError where `strategies.wire.run_config` refuses a key or value.
    """
    config = _config(message)
    theirs = config.get(protocol.PROTOCOL_KEY)
    if theirs != protocol.PROTOCOL or not isinstance(config.get(protocol.ROUND), int):
        what = f"The server speaks protocol {theirs!r}, this silo {protocol.PROTOCOL}."
        hint = "Install the same version of Meadow on both sides."
        raise WireError("MDW-601", what, hint)
    text = str(config.get(protocol.RUN_CONFIG, ""))
    if run_config.digest(text) != config.get(protocol.RUN_DIGEST):
        what = "The run's configuration does not match its digest."
        raise WireError("MDW-602", what, "Start the run again.")
    return run_config.unpacked(text)


def _config(message: Message) -> ConfigRecord:
    records = protocol.records(message.content, ConfigRecord)
    if protocol.CONFIG not in records:
        raise WireError(
            "MDW-601", "The message has no config record.", "Send it through Meadow's round loop."
        )
    return records[protocol.CONFIG]
