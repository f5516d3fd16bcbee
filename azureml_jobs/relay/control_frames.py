"""The frames of the control channel: what the relay may ask an orchestrator, and what that may say.

    relay -> orchestrator   {"open": STREAM, "challenge": ..., "certificate": ..., "signature": ...}
    orchestrator -> relay   {"refuse": STREAM, "why": TEXT}

An orchestrator that takes a stream says nothing: it dials the relay again and fetches it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from azureml_jobs.relay.connection_proofs import (
    Challenge,
    Proof,
    checked_stream,
    not_of_the_protocol,
    plain_frame,
)
from conf.border import one_line

LONGEST_REASON: Final = 200
"""Characters of why a stream is refused."""


@dataclass(frozen=True)
class Offer:
    """A silo that waits at the relay: its stream, and the proof that it gave there."""

    stream: str
    challenge: Challenge
    proof: Proof

    def to_text(self) -> str:
        """Return the frame that is sent."""
        said = {"open": self.stream, "challenge": self.challenge.to_text(), **asdict(self.proof)}
        return json.dumps(said)

    @staticmethod
    def from_text(frame: object) -> Offer:
        """Return the offer in a frame; raises WireError MDW-690."""
        raw = plain_frame(frame)
        stream = raw.get("open")
        if not isinstance(stream, str):
            raise not_of_the_protocol("a frame that opens nothing")
        return Offer(
            checked_stream(stream),
            Challenge.from_text(raw.get("challenge")),
            Proof.from_plain(raw),
        )


@dataclass(frozen=True)
class Refusal:
    """A stream that the orchestrator does not take, and why."""

    stream: str
    why: str

    def to_text(self) -> str:
        """Return the frame that is sent."""
        return json.dumps({"refuse": self.stream, "why": self.why[:LONGEST_REASON]})

    @staticmethod
    def from_text(frame: object) -> Refusal:
        """Return the refusal in a frame; raises WireError MDW-690."""
        raw = plain_frame(frame)
        stream = raw.get("refuse")
        why = raw.get("why")
        if not isinstance(stream, str) or not isinstance(why, str):
            raise not_of_the_protocol("a frame that refuses nothing")
        return Refusal(checked_stream(stream), one_line(why, LONGEST_REASON))
