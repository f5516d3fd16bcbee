"""A call that breaks the rules is ended with its code, which its caller and the log are told."""

from __future__ import annotations

import logging
from typing import NoReturn

import grpc

log = logging.getLogger(__name__)


def refuse(context: grpc.ServicerContext, code: str, why: str) -> NoReturn:
    """End a call that breaks the rules: PERMISSION_DENIED, which a stock node takes for a run that
    is over.
    """
    log.warning("%s: refused a call of %s: %s", code, context.peer(), why)
    context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{code}: {why}")
    raise AssertionError("abort raises")
