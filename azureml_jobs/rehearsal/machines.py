"""The sizes of machines, and whether a subscription's quota has room for one more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from azureml_jobs.rehearsal.resources import Json

SIZES: Final[list[Json]] = [
    {
        "name": "Standard_DS3_v2",
        "family": "standardDSv2Family",
        "vCPUs": 4,
        "gpus": 0,
        "memoryGB": 14,
    },
    {
        "name": "Standard_NC6s_v3",
        "family": "standardNCSv3Family",
        "vCPUs": 6,
        "gpus": 1,
        "memoryGB": 112,
    },
    {
        "name": "Standard_NC24s_v3",
        "family": "standardNCSv3Family",
        "vCPUs": 24,
        "gpus": 4,
        "memoryGB": 448,
    },
]


@dataclass
class Machines:
    """What a subscription may use: `usages` as Azure lists them, one a family.

    A family that is not listed has no limit here.
    """

    sizes: list[Json] = field(default_factory=lambda: SIZES)
    usages: list[Json] = field(default_factory=list)

    def limit(self, family: str, cores: int) -> None:
        """Set a family's quota; Azure's own for GPUs is zero (how-to-manage-quotas)."""
        self.usages[:] = [one for one in self.usages if one["name"]["value"] != family]
        name = {"value": family, "localizedValue": family}
        self.usages.append({"name": name, "currentValue": 0, "limit": cores, "unit": "Count"})

    def refusal(self, compute: Json) -> Json | None:
        """Return the error of a cluster that gets no node for want of quota, None where it does."""
        wanted = str((compute["properties"].get("properties") or {}).get("vmSize", "")).lower()
        size = next((one for one in self.sizes if one["name"].lower() == wanted), None)
        if size is None:
            return None
        for usage in self.usages:
            if usage["name"]["value"].lower() != size["family"].lower():
                continue
            limit, used, more = usage["limit"], usage["currentValue"], size["vCPUs"]
            if used + more > limit:
                message = (
                    "Operation results in exceeding quota limits of Core. Maximum allowed:"
                    f" {limit}, Current in use: {used}, Additional requested: {more}."
                )
                return {"error": {"code": "ClusterCoreQuotaReached", "message": message}}
        return None
