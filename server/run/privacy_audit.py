"""What an audit of a private simulation found: epsilon is at least so much, beside what the accountant
says that it is at most (`client.privacy.canaries`).
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from azureml_jobs.storage.folder_store import FolderStore
from client.privacy import canaries
from client.privacy.lower_bound import proven
from conf.schema import PrivacyConf, SampleDpConf
from server.run.privacy_spent import of_audit
from server.run.result import RunResult

log = logging.getLogger(__name__)


def audited(
    result: RunResult, privacy: PrivacyConf, silo: str, rounds: int, accounts: Path
) -> None:
    """Add to a simulation's result what its audit found at a silo in the first `rounds` rounds, where
    it had one.

    Raises CheckpointError MDW-546 where the scores can't be read.
    """
    if not isinstance(privacy, SampleDpConf) or not privacy.audit:
        return
    spent = result.privacy.get("silos", {}).get(silo, {})
    found = canaries.noted(FolderStore(accounts), silo, rounds)
    if found is None or "epsilon" not in spent:
        log.warning("%s trained in no round, so that there is nothing to audit", silo)
        return
    coins, scores, trained = found
    least = proven(coins, scores, privacy.delta)
    most = float(spent["epsilon"])
    facts = asdict(least) | {"silo": silo, "rounds": trained, "epsilon_at_most": most}
    facts["epsilon_at_least"] = facts.pop("epsilon")
    facts["holds"] = least.epsilon <= most
    result.privacy["audit"] = facts
    if not facts["holds"]:
        log.warning("%s", of_audit(result.privacy)[0])
