"""A model of which only a step from the one before has come, made whole for the app.

The last model stays in this process's memory, under the digest by which the server calls it. A
process that has not got the model that a step begins at says so (MDW-687) and is sent all of it:
nothing is lost with it but bytes.

    MDW-687 a step from a model that is not here     MDW-688 a step that does not lead to its model
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any, Final

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from conf.errors import MeadowError, WireError
from strategies.compression.step import Step, applied, down_codec
from strategies.wire import protocol, run_config
from strategies.wire.digests import arrays_digest

KEPT: Final = 2
"""Models: the last one, and the one before, from which a silo of the same process may step."""
LONGEST: Final = 16 * 2**20
"""Letters of the names of encoded arrays."""

_lock = threading.Lock()
_models: dict[str, ArrayRecord] = {}


def step_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Give what is inside the whole model."""
    if message.has_content() and isinstance(message.content.get(protocol.STEP), ConfigRecord):
        message.content = whole(message.content)
    return call_next(message, context)


def whole(content: RecordDict) -> RecordDict:
    """Return a message's content with the whole model in it; raises WireError MDW-687 or 688."""
    given: dict[str, Any] = dict(content)
    step = given.pop(protocol.STEP)
    change = given.pop(protocol.CHANGE, None)
    name = str(step.get(protocol.STEP_TO, ""))
    base = str(step.get(protocol.STEP_FROM, ""))
    model = given.get(protocol.ARRAYS)
    if not isinstance(model, ArrayRecord):
        raise _unfit("it has no arrays")
    if base:
        if not isinstance(change, ArrayRecord):
            raise _unfit("it has no change")
        with _lock:
            before = _models.get(base)
        if before is None:
            what = (
                "The server sent what its model differs by from one that this process has not got."
            )
            raise WireError("MDW-687", what, "Nothing: the server sends all of it.")
        model = _after(before, step, change, model, content, name)
        given[protocol.ARRAYS] = model
    with _lock:
        _models.pop(name, None)
        _models[name] = model
        for old in list(_models)[:-KEPT]:
            del _models[old]
    return RecordDict(given)


def _after(
    before: ArrayRecord,
    step: Mapping[str, object],
    change: ArrayRecord,
    as_it_is: ArrayRecord,
    content: RecordDict,
    name: str,
) -> ArrayRecord:
    if name == step.get(protocol.STEP_FROM):
        return before
    config = content.get(protocol.CONFIG)
    text = str(config.get(protocol.RUN_CONFIG, "")) if isinstance(config, ConfigRecord) else ""
    codec = down_codec(run_config.unpacked(text).compression)
    if codec is None:
        raise _unfit("the run's models travel whole")
    try:
        model = applied(codec, before, Step(_names(step), change, as_it_is))
    except (ValueError, RecursionError, MeadowError) as why:
        raise _unfit(str(why)) from None
    if arrays_digest(model) != name:
        raise _unfit("it leads to another model than the server says")
    return model


def _names(step: Mapping[str, object]) -> tuple[str, ...]:
    text = str(step.get(protocol.STEP_CODED, ""))
    if len(text) > LONGEST:
        raise ValueError("its names are too long")
    names = json.loads(text)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its names are no list of texts")
    return tuple(names)


def _unfit(why: str) -> WireError:
    what = f"The server sent a step to its model that can't be taken: {why}."
    return WireError("MDW-688", what, "Run the same version of Meadow on both sides.")
