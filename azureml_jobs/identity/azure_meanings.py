"""What a service of Azure answered, and what that means to a person: the one place that knows.

`identity.azure_answers` reads what an SDK raised; `meaning` is a pure function of what was read: it
looks at the status, the service's own code and its text, in the order of `KINDS`, and says what to
do.

The codes are those that Microsoft documents: Key Vault REST error codes, Blob service error codes,
Resource Manager's throttling and common deployment errors, Azure ML's troubleshooting pages.

    MDW-800 not reached            MDW-804 another tenant     MDW-809 the service failed
    MDW-801 a role is missing      MDW-805 throttled          MDW-816 refused as wrong
    MDW-802 not there              MDW-806 a firewall         MDW-817 being changed, or taken
    MDW-803 not signed in          MDW-807 quota              MDW-818 provider not registered
    MDW-819 forbidden by a policy  MDW-808 state of a compute MDW-820 the subscription is not seen
    MDW-822 shared keys are off
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from azureml_jobs.identity.azure_answers import SIGNED_OUT, Answer, answer_of
from conf.errors import AzureError, Told

LONGEST: Final = 400
"""Characters of a service's own text that a message repeats."""
THROTTLED: Final = "MDW-805"
NOT_SIGNED_IN: Final = "MDW-803"
FIREWALL: Final = "MDW-806"
UNREACHED: Final = ("MDW-800", THROTTLED, "MDW-809")
"""Codes of what may be over when it is asked again."""
NETWORK_ROLE: Final = "Network Contributor"


class Throttled(AzureError):
    """Azure takes no more requests for `seconds`, as it says itself."""

    seconds: float | None = None

    def __init__(
        self, code: str, message: str, hint: str = "", told: Mapping[str, Told] | None = None
    ) -> None:
        super().__init__(code, message, hint, told)


@dataclass(frozen=True)
class Kind:
    """One thing that can be wrong: how it is recognised, and what to say.

    An answer is of this kind where its status is one of `statuses` (empty: any), and one of the
    service's codes is in `codes` or one of `words` in its text (both empty: whatever it says).
    `{where}` and `{role}` are filled in.
    """

    number: str
    message: str
    hint: str
    statuses: tuple[int, ...] = ()
    codes: frozenset[str] = frozenset()
    words: tuple[str, ...] = ()

    def has(self, answer: Answer) -> bool:
        """Return whether an answer is of this kind."""
        if self.statuses and answer.status not in self.statuses:
            return False
        if not self.codes and not self.words:
            return True
        said = {answer.code.lower(), answer.inner.lower()}
        text = answer.text.lower()
        return bool(said & self.codes) or any(word in text for word in self.words)


def _codes(*names: str) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


KINDS: Final = (
    Kind(
        "MDW-804",
        "The sign-in is of another tenant than {where}",
        "Sign in to the tenant that owns it: az login --tenant {tenant}. A managed identity has no "
        "role outside its own tenant.",
        codes=_codes("InvalidAuthenticationTokenTenant"),
        words=(
            "wrong issuer",
            "akv10032",
            "issuer validation failed",
            "aadsts50020",
            "aadsts90002",
            "aadsts700016",
            "aadsts50034",
        ),
    ),
    Kind(
        NOT_SIGNED_IN,
        "Not signed in for {where}",
        "Sign in (`az login`), or give the job an identity; an expired token is requested again by "
        "itself.",
        codes=_codes(SIGNED_OUT, "InvalidAuthenticationToken", "ExpiredAuthenticationToken"),
    ),
    Kind(
        THROTTLED,
        "{where} takes no more requests for now",
        "Wait{seconds}; ask less often, or have others who use the same subscription ask less.",
        statuses=(429,),
    ),
    Kind(
        THROTTLED,
        "{where} takes no more requests for now",
        "Wait{seconds}; ask less often, or have others who use the same subscription ask less.",
        codes=_codes("TooManyRequests", "SubscriptionRequestsThrottled", "Throttled", "ServerBusy"),
    ),
    Kind(
        FIREWALL,
        "The firewall of {where} lets nothing in from this network",
        "No role helps: have its owner allow this network (`az keyvault network-rule add`, `az "
        "storage account network-rule add`), or ask from a network with a private endpoint.",
        codes=_codes(
            "ForbiddenByConnection",
            "ForbiddenByFirewall",
            "AuthorizationFailure",
            "AuthorizationSourceIPMismatch",
            "PublicNetworkAccessDisabled",
        ),
        words=(
            "public network access is disabled",
            "client address is not authorized",
            "not an approved private link",
            "nor via an approved private link",
            "behind a vnet",
        ),
    ),
    Kind(
        "MDW-822",
        "{where} takes no shared key",
        "Its owner has turned shared keys off: give whoever submits and the compute the role "
        "'Storage Blob Data Contributor' at the workspace's default storage account.",
        codes=_codes("KeyBasedAuthenticationNotPermitted"),
    ),
    Kind(
        "MDW-819",
        "A policy of the organisation forbids this of {where}",
        "Ask whoever sets the policies of that subscription; the text names the policy.",
        codes=_codes("RequestDisallowedByPolicy", "PolicyViolation", "RequestDisallowedByAzure"),
    ),
    Kind(
        "MDW-818",
        "The subscription of {where} does not know the service",
        "Register it, once for a subscription, as its Contributor or Owner: "
        "az provider register --namespace {provider}.",
        codes=_codes("MissingSubscriptionRegistration", "NoRegisteredProviderFound"),
    ),
    Kind(
        "MDW-820",
        "This sign-in sees no such subscription as that of {where}",
        "Correct subscription_id in the federation's file, or sign in to the tenant that has it: "
        "az login --tenant TENANT.",
        codes=_codes("SubscriptionNotFound", "InvalidSubscriptionId"),
    ),
    Kind(
        "MDW-807",
        "The quota of {where} is used up",
        "Ask for more in the portal (Quotas, Machine learning) or free some: GPU sizes begin with "
        "a quota of zero. `meadow check` shows what is left.",
        codes=_codes(
            "QuotaExceeded",
            "ClusterCoreQuotaReached",
            "ClusterMinNodesExceedCoreQuota",
            "SubscriptionQuotaReached",
            "QuotaLimitReached",
        ),
        words=("exceeding approved", "quota limit", "exceeding quota", "core quota"),
    ),
    Kind(
        "MDW-808",
        "A compute of {where} is not ready",
        "Wait until it is provisioned, or start, resize or repair it: `az ml compute show`.",
        codes=_codes("ComputeInvalidState", "ComputeNotReady", "ComputeNotRunning"),
        words=(
            "not in a ready state",
            "in an invalid state",
            "compute is not running",
            "provisioning state of the compute",
            "compute is being",
        ),
    ),
    Kind(
        "MDW-801",
        "This identity may not use {where}",
        "Grant that identity the role '{role}' at {scope}, and wait some minutes.",
        statuses=(403,),
    ),
    Kind(
        "MDW-802",
        "There is no {what}",
        "Correct its name in the federation's file, or make it.",
        statuses=(404,),
    ),
    Kind(
        NOT_SIGNED_IN,
        "Not signed in for {where}",
        "Sign in (`az login`), or give the job an identity; an expired token is requested again by "
        "itself.",
        statuses=(401,),
    ),
    Kind(
        "MDW-817",
        "{where} is being changed, or the name is taken",
        "Try again in a minute; the text says what is in the way.",
        statuses=(409, 412),
    ),
    Kind(
        "MDW-816",
        "{where} refuses what was sent as wrong",
        "The text names the field; correct it in the federation's file.",
        statuses=(400, 405, 413, 415, 422),
    ),
    Kind(
        "MDW-809",
        "{where} failed",
        "Try again in some minutes; https://status.azure.com says whether it is down.",
        statuses=tuple(range(500, 600)),
    ),
    Kind(
        "MDW-800",
        "Can't reach {where}",
        "Check its name, its network rules, and this network: its DNS, proxy and CA.",
    ),
)


def meaning(answer: Answer, where: str, role: str) -> AzureError:
    """Return what an answer means; `role` is the one that would have allowed the call at `where`."""
    kind = next(kind for kind in KINDS if kind.has(answer))
    said = " ".join(answer.text.split())[:LONGEST] or answer.code or f"status {answer.status}"
    wanted, scope = _wanted(answer.text, role)
    after = answer.retry_after
    fill = {
        "where": where,
        "what": where.removeprefix("the "),
        "role": wanted,
        "scope": scope or "that resource",
        "tenant": _tenant(answer.text) or "TENANT",
        "provider": _provider(answer.text) or "Microsoft.MachineLearningServices",
        "seconds": f" {after:.0f} s, as it says" if after is not None else "",
    }
    message = kind.message.format(**fill)
    message = f"{message[0].upper()}{message[1:]}: {said}"
    hint = kind.hint.format(**fill)
    if kind.number == THROTTLED:
        throttled = Throttled(kind.number, message, hint)
        throttled.seconds = after
        return throttled
    return AzureError(kind.number, message, hint)


def refusal(error: Exception, where: str, role: str) -> AzureError:
    """Return what a failed call to Azure means, whichever of its SDKs raised it."""
    return meaning(answer_of(error), where, role)


def _wanted(text: str, role: str) -> tuple[str, str]:
    """Return the role that allows what a refusal names, and at which resource."""
    scope = re.search(r"(?:over scope|on the linked scope\(s\)) '([^']+)'", text)
    if "subnets/join/action" in text.lower():
        role = NETWORK_ROLE
    return role, scope[1] if scope else ""


def _tenant(text: str) -> str:
    """Return the tenant that a refusal wants: the one that it says must match, or is expected."""
    guid = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    found = re.search(
        rf"(?:must match (?:one of )?the tenants? |expected one of )\D*?['/]({guid})",
        text,
        re.IGNORECASE,
    )
    return found[1] if found else ""


def _provider(text: str) -> str:
    found = re.search(r"namespace '([\w.]+)'", text)
    return found[1] if found else ""
