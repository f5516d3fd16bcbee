"""Says that Azure throttles, while its client waits for as long as Azure asked."""

from __future__ import annotations

import logging
from typing import Any, Final

from azure.core.pipeline import PipelineRequest, PipelineResponse
from azure.core.pipeline.policies import SansIOHTTPPolicy

log = logging.getLogger(__name__)

THROTTLED: Final = 429


class TellsThrottling(SansIOHTTPPolicy[Any, Any]):
    """Logs a line for each answer by which a client has to wait before it asks again."""

    def __init__(self, where: str) -> None:
        self._where = where

    def on_response(
        self, request: PipelineRequest[Any], response: PipelineResponse[Any, Any]
    ) -> None:
        """See `SansIOHTTPPolicy`."""
        answer = response.http_response
        if answer.status_code == THROTTLED:
            seconds = answer.headers.get("Retry-After")
            when = f"in {seconds} s, as it says" if seconds else "in a moment"
            log.warning("%s takes no more requests for now; asked again %s", self._where, when)
