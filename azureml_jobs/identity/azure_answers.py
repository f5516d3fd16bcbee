"""What a service of Azure answered to a call that failed, read from whatever its SDKs raised.

What it means is said by `identity.azure_meanings`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

SIGNED_OUT: Final = "NotSignedIn"
"""The code of an answer that nobody gave: no credential had a token."""
_REPEATED: Final = re.compile(r"\n(?:RequestId|ErrorCode|Code|Content):")
"""After which a client's text says the same again, in the service's own form."""
DEEPEST: Final = 8
"""Of the errors that led to one another."""


@dataclass(frozen=True)
class Answer:
    """What a service said: HTTP status (0: nothing came), its codes, its text, and after how many
    seconds to ask again.
    """

    status: int = 0
    code: str = ""
    inner: str = ""
    text: str = ""
    retry_after: float | None = None


def answer_of(error: BaseException) -> Answer:
    """Return what a service said, as far as what an SDK raised still tells.

    Of errors that led to one another the first that holds a service's answer counts: a wrapper's
    own text says less.
    """
    read: tuple[Callable[[Any], Answer | None], ...] = (_from_azure_core, _from_mlflow)
    for one in _chain(error):
        for reader in read:
            answer = reader(one)
            if answer is not None:
                return answer
    return Answer(text=str(error) or type(error).__name__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that led to it; an SDK may wrap what the service said."""
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in seen and len(seen) < DEEPEST:
        seen.append(one)
        yield one
        inner = getattr(one, "inner_exception", None) or getattr(one, "_inner_exception", None)
        one = inner if isinstance(inner, BaseException) else one.__cause__ or one.__context__


def _from_azure_core(error: BaseException) -> Answer | None:
    from azure.core.exceptions import (
        AzureError as ClientError,
    )
    from azure.core.exceptions import (
        ClientAuthenticationError,
        HttpResponseError,
    )

    if not isinstance(error, ClientError):
        return None
    response = getattr(error, "response", None)
    if isinstance(error, ClientAuthenticationError) and response is None:
        return Answer(code=SIGNED_OUT, text=str(error))
    if not isinstance(error, HttpResponseError):
        return None
    status = int(error.status_code or 0)
    headers = {
        str(k).lower(): str(v) for k, v in (getattr(response, "headers", None) or {}).items()
    }
    code, inner = _codes_of(error, headers)
    text = _REPEATED.split(str(error), maxsplit=1)[0]
    challenge = headers.get("www-authenticate", "")
    if status == 401 and "AKV10032" in challenge:
        text = challenge
    return Answer(status, code, inner, text, _seconds(headers))


def _codes_of(error: Any, headers: Mapping[str, str]) -> tuple[str, str]:
    code = str(getattr(error, "error_code", None) or headers.get("x-ms-error-code", "") or "")
    odata = getattr(error, "error", None)
    inner = getattr(odata, "innererror", None) or {}
    inner_code = str(inner.get("code", "")) if isinstance(inner, Mapping) else ""
    return code or str(getattr(odata, "code", None) or ""), inner_code


def _seconds(headers: Mapping[str, str]) -> float | None:
    """Return after how many seconds to ask again; Azure gives them in whole seconds or in ms."""
    for name, unit in (("retry-after-ms", 1e-3), ("x-ms-retry-after-ms", 1e-3), ("retry-after", 1)):
        text = headers.get(name, "")
        if re.fullmatch(r"\d{1,9}", text):
            return int(text) * unit
    return None


def _from_mlflow(error: BaseException) -> Answer | None:
    """Return what MLflow's client says of a service's answer, whose status is in its text alone."""
    if type(error).__module__.partition(".")[0] not in ("mlflow", "requests", "urllib3"):
        return None
    text = str(error)
    status = re.search(r"error code (\d{3})\b|^(\d{3}) ", text)
    number = int(status[1] or status[2]) if status else 0
    if not number and getattr(error, "json", None):
        number = int(getattr(error, "get_http_status_code", lambda: 0)() or 0)
    if not number:
        return None
    body = re.search(r"\{.*\}", text, re.DOTALL)
    code = str(getattr(error, "error_code", "") or "")
    inner = ""
    if body:
        code, inner = _codes_in(body[0], code)
    return Answer(number, code, inner, text)


def _codes_in(body: str, code: str) -> tuple[str, str]:
    try:
        told = json.loads(body)
        error = told.get("error", told)
        inner = error.get("innererror") or error.get("innerError") or {}
        return str(error.get("code") or error.get("error_code") or code), str(inner.get("code", ""))
    except (ValueError, AttributeError):
        return code, ""
