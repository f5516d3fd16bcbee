"""The append-only record of a run: JSON lines, each of which holds the SHA-256 of the line before
it.

A chain alone proves nothing against who can rewrite all of it. So the head of each round is signed
by the orchestrator's key and goes out to the silos, as the text `lines:head`, and their signed
answers become lines too. `server.run.audit` compares (docs/ledger.md).

    MDW-520 the chain is broken    MDW-521 two writers or two histories
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from azureml_jobs.identity.signatures import HeadSigner
from azureml_jobs.storage.base import Store
from conf.canonical import canonical
from conf.errors import CheckpointError
from conf.files import whole
from conf.files.faults import FileFault, disk, disk_error
from conf.files.locks import Lock, try_lock
from conf.files.whole import make_folder, open_for_append, write_synced
from server.round.judgement import Admitted, Rejected
from server.run.chain import NOTHING, line_digest, whole_lines
from server.run.verdict import FORMAT, Anchor, Facts, check_version, verify
from strategies.wire.receipts import Receipt, SignedAnchor, head_statement

log = logging.getLogger(__name__)

Clock = Callable[[], float]
AdmissionOf = Callable[[str], str]
"""Returns the certificate by which the CA admits a key (both in PEM); empty where there is none."""

SEGMENTS: Final = "ledger"
"""Prefix of the immutable segments in a store: `ledger/<run_id>/<first line>.jsonl`."""
REMEMBERED: Final = 64
"""Signed heads that an open ledger knows: a restart goes on from one of the last rounds, and each
try that came to nothing has signed three since.
"""
_TO_REMEMBER: Final = tuple(
    f'"event":"{event}"'.encode()
    for event in (
        "run started",
        "run resumed",
        "head signed",
        "silo key",
        "owner note",
        "receipt",
        "release reserved",
    )
)


class Ledger:
    """The ledger of one run, in a file and, with a store, in immutable segments put there by
    `seal`.

    Lines are gathered and written with one sync by `seal`, so that a round costs the same for any
    number of silos. No anchor of a line is handed out before.

    Opening continues what is there: the longer of file and segments, checked. A last line that a
    killed process left unfinished is dropped. Raises CheckpointError MDW-520 for a broken chain,
    MDW-521 where another process has the file open or file and segments disagree, MDW-505 where
    another version has written to it.
    """

    def __init__(
        self,
        path: Path,
        run_id: str,
        store: Store | None = None,
        clock: Clock = time.time,
        signer: HeadSigner | None = None,
    ) -> None:
        """Without a `signer` no head is signed and no receipt is expected: a simulation has no CA."""
        self._path = path
        self._run_id = run_id
        self._store = store
        self._clock = clock
        self._signer = signer
        self._lines = 0
        self.head = NOTHING
        self._unwritten: list[bytes] = []
        self._unsealed: list[bytes] = []
        self._certificate = ""  # of the key that signed the lines that follow
        self._signed: dict[str, SignedAnchor] = {}  # the last ones, by anchor
        self._keys: dict[str, str] = {}  # by silo, the one of its last receipt
        self._notes: dict[str, int] = {}  # by silo, the number of its owner's last note
        self._held: dict[str, dict[str, Any]] = {}  # by silo, the last anchor that it has signed
        self.releases: list[Facts] = []  # what the server has released of the silos' changes
        self._lock, self._file = self._opened()
        try:
            self._continue()
        except BaseException:
            self.close()
            raise

    def append(self, event: str, **facts: Any) -> str:
        """Add one line, to be written by the next `seal`, and return its digest, the new head.

        `facts` are plain JSON values.
        """
        named = {"event": event} | facts
        line = canonical(
            {
                "line": self._lines + 1,
                "previous": self.head,
                "time": round(self._clock(), 3),
                "run": self._run_id,
            }
            | named
        )
        self._remember(named)
        self._unwritten.append(line)
        self._count(line)
        return self.head

    def seal(self) -> Anchor:
        """Write the lines since the last seal, to the disk and into the store, and return the
        anchor to hand out.

        Raises CheckpointError: MDW-513 to 515 where the disk fails, which leaves the file as it was
        and the lines for the next seal; MDW-521 where another orchestrator has put different lines
        there.
        """
        if self._unwritten:
            self._write(b"".join(line + b"\n" for line in self._unwritten))
            self._unwritten = []
        if self._store is not None and self._unsealed:
            name = f"{SEGMENTS}/{self._run_id}/{self._lines - len(self._unsealed) + 1:09d}.jsonl"
            body = b"".join(line + b"\n" for line in self._unsealed)
            if not self._store.put_if_absent(name, body) and self._store.read(name) != body:
                raise self._disagreement(f"{name} holds other lines")
            self._unsealed = []
        return Anchor(str(self._path), self._lines, self.head)

    def run_started(
        self,
        *,
        federation: str,
        code: str,
        tree: str,
        config: str,
        silos: Sequence[str],
        resumed: bool,
        config_file: str = "",
    ) -> Anchor:
        """Note that a run begins or is resumed; seal, return the anchor.

        `code` is the digest of what must agree (`release_digest`), `tree` that of all that is
        installed at the server (`tree_digest`), `config` that of the run-scoped configuration, as
        silos get it, `config_file` that of all of `config.yaml`. The certificates that vouch for
        the key which signs the heads that follow stand in the line too.
        """
        event = "run resumed" if resumed else "run started"
        facts = {"federation": federation, "code": code, "tree": tree, "config": config}
        signer = None
        if self._signer is not None:
            signer = {"certificate": self._signer.certificate, "ca": self._signer.ca}
        self.append(
            event,
            **FORMAT.stamp,
            **facts,
            config_file=config_file,
            silos=list(silos),
            signer=signer,
        )
        return self._seal_signed()

    def update(
        self, round: int, silo: str, verdict: Admitted | Rejected, digest: str, phase: str = "train"
    ) -> None:
        """Note what admission said of an update; `digest` is `arrays_digest` of what was sent."""
        facts = {"round": round, "silo": silo, "phase": phase, "update": digest}
        if isinstance(verdict, Rejected):
            self.append("update refused", **facts, code=verdict.code, reason=verdict.reason)
            return
        norm = verdict.norm if verdict.norm is not None and verdict.norm < float("inf") else None
        self.append(
            "update admitted",
            **facts,
            examples=verdict.examples,
            norm=norm,
        )

    def software(self, round: int, silo: str, facts: Mapping[str, str]) -> None:
        """Note what a silo says that it runs (`strategies.wire.software`): at first, and where it
        has changed.
        """
        self.append("software", round=round, silo=silo, runs=dict(facts))

    def owner_note(self, round: int, silo: str, note: Facts) -> None:
        """Note what a silo's owner has signed of it (`identity.owner_note`), where that is new."""
        if self._notes.get(silo) != note["number"]:
            self.append("owner note", round=round, silo=silo, note=dict(note))

    def release_reserved(
        self,
        round: int,
        silos: Sequence[str],
        *,
        mechanism: str,
        relation: str,
        noise: float,
        clip_norm: float,
    ) -> Anchor:
        """Note that a noised mean of some silos is about to be released, so that it has been paid for
        whatever becomes of the round; `noise` is in units of `clip_norm`.

        Seals, and returns the anchor. A round that is asked again has a line for each try.
        """
        self.append(
            "release reserved",
            round=round,
            silos=sorted(silos),
            mechanism=mechanism,
            relation=relation,
            noise=noise,
            clip_norm=clip_norm,
        )
        return self.seal()

    def round_closed(
        self,
        round: int,
        model: str,
        admitted: Sequence[str],
        *,
        history: str = "",
        privacy: Facts | None = None,
    ) -> Anchor:
        """Note the round's model (its `arrays_digest`), its line's digest in the history and the
        privacy spent.

        Seals, and returns the anchor.
        """
        self.append(
            "round closed",
            round=round,
            model=model,
            history=history,
            admitted=sorted(admitted),
            privacy=dict(privacy or {}),
        )
        return self._seal_signed()

    def model_tested(self, round: int, model: str, test: str) -> Anchor:
        """Note that a round's model was evaluated on the test splits; `test` is the digest of what
        was found (`server.run.result.FinalTest`).

        Seals, and returns the anchor. A run that is resumed for more rounds has one line an end.
        """
        self.append("model tested", round=round, model=model, test=test)
        return self.seal()

    def run_finished(self, status: str, model: str, result: str = "") -> Anchor:
        """Note how the run ended, with which model and with which `result` (`RunResult.digest`);
        seal, return the anchor.
        """
        self.append("run finished", status=status, model=model, result=result)
        return self._seal_signed()

    def receipt(self, receipt: Receipt, admission_of: AdmissionOf) -> None:
        """Note a silo's receipt that was checked, and before it the silo's key where that is new,
        with its admission: the CA's word that it is this silo's.
        """
        if self._keys.get(receipt.silo) != receipt.key:
            admission = admission_of(receipt.key)
            self.append("silo key", silo=receipt.silo, key=receipt.key, admission=admission)
        self.append(
            "receipt",
            round=receipt.round,
            silo=receipt.silo,
            anchor=receipt.anchor,
            config=receipt.config,
            update=receipt.update,
            closing=receipt.closing,
            signature=receipt.signature,
        )

    def receipt_missing(self, round: int, silo: str, reason: str, *, closing: bool = False) -> None:
        """Note that a silo gave no receipt, or one that does not fit; that is not an error."""
        self.append("receipt missing", round=round, silo=silo, reason=reason, closing=closing)

    def run_closed(self, silos: Sequence[str]) -> Anchor:
        """Note what each silo holds, after the closing message was answered; seal, return the
        anchor.

        Of each it is the last anchor that it has signed: of a silo that was away at the end an
        earlier one, of one that never signed any None.
        """
        held = {silo: self._held.get(silo) for silo in silos}
        self.append("run closed", held=held)
        return self._seal_signed()

    @property
    def signs(self) -> bool:
        """Whether heads are signed here, so that receipts are expected."""
        return self._signer is not None

    @property
    def authorities(self) -> bytes:
        """The CA that vouches for the key, in PEM; empty where nobody signs."""
        return self._signer.ca.encode() if self._signer is not None else b""

    def signed(self, anchor: str) -> SignedAnchor:
        """Return an anchor of one of the last rounds as it was signed.

        The same after a restart, though the key is another then: a round that is asked again is
        asked in the same words.
        """
        if anchor not in self._signed and self._signer is not None and anchor:
            # Of another ledger file, or too long ago: the words are others, the proof is as good.
            signature = self._signer.sign(head_statement(self._run_id, anchor))
            self._signed[anchor] = SignedAnchor(anchor, signature, self._signer.certificate)
        return self._signed.get(anchor, SignedAnchor(anchor))

    def close(self) -> None:
        """Let go of the file; another process may then continue it.

        Lines that were not sealed are lost.
        """
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._lock.release()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _seal_signed(self) -> Anchor:
        """Sign the head, and write that line with those before it, in one sync."""
        anchor = Anchor(str(self._path), self._lines, self.head)
        if self._signer is not None:
            signature = self._signer.sign(head_statement(self._run_id, str(anchor)))
            self.append("head signed", anchor=str(anchor), signature=signature)
        self.seal()
        return anchor

    def _remember(self, facts: Facts) -> None:
        """Take from a line what later ones need."""
        event = facts.get("event")
        if event in ("run started", "run resumed"):
            self._certificate = (facts.get("signer") or {}).get("certificate", "")
        elif event == "head signed":
            anchor = str(facts["anchor"])
            proof = SignedAnchor(anchor, str(facts["signature"]), self._certificate)
            self._signed[anchor] = proof
            if len(self._signed) > REMEMBERED:
                del self._signed[next(iter(self._signed))]
        elif event == "silo key":
            self._keys[str(facts["silo"])] = str(facts["key"])
        elif event == "owner note":
            self._notes[str(facts["silo"])] = facts["note"]["number"]
        elif event == "release reserved":
            self.releases.append(facts)
        elif event == "receipt":
            names = ("anchor", "round", "closing")
            self._held[str(facts["silo"])] = {name: facts[name] for name in names}

    def _opened(self) -> tuple[Lock, int]:
        """Return the ledger's lock and its file; raises CheckpointError MDW-521, FileFault."""
        make_folder(self._path.parent)
        lock = try_lock(self._path)
        if lock is None:
            hint = "Stop the other process, or give this run another name."
            raise CheckpointError("MDW-521", f"Another process is writing {self._path}.", hint)
        try:
            with disk("open", self._path):
                return lock, open_for_append(self._path, whole.PRIVATE)
        except FileFault:
            lock.release()
            raise

    def _continue(self) -> None:
        with disk("read", self._path):
            content = self._path.read_bytes()
        here, whole = whole_lines(content)
        there = stored_lines(self._store, self._run_id) if self._store is not None else []
        if here[: len(there)] != there[: len(here)]:
            raise self._disagreement("the file and the store hold different lines")
        lines = max(here, there, key=len)
        check_version(lines, self._path)
        verdict = verify(lines)
        if verdict.faults:
            hint = "Restore the file from the store or a copy, or start a new run."
            raise CheckpointError("MDW-520", f"{self._path} is {verdict}.", hint)
        if whole < len(content):
            log.warning("%s: dropped an unfinished last line", self._path)
            with disk("write", self._path):
                os.ftruncate(self._file, whole)
        self._write(b"".join(line + b"\n" for line in lines[len(here) :]))
        self._lines = len(lines)
        self.head = verdict.head
        self._unsealed = lines[len(there) :]
        for line in lines:
            # Cheap first: most lines are updates.
            if any(event in line for event in _TO_REMEMBER):
                with FORMAT.reading(self._path):
                    self._remember(json.loads(line))

    def _write(self, data: bytes) -> None:
        try:
            write_synced(self._file, data)
        except OSError as error:
            raise disk_error(error, "write", str(self._path)) from error

    def _count(self, line: bytes) -> None:
        self._lines += 1
        self.head = line_digest(line)
        if self._store is not None:
            self._unsealed.append(line)

    def _disagreement(self, what: str) -> CheckpointError:
        hint = "Find out which orchestrator wrote which before going on; neither was changed."
        return CheckpointError(
            "MDW-521", f"The ledger of {self._run_id} has two histories: {what}.", hint
        )


def stored_lines(store: Store, run_id: str) -> list[bytes]:
    """Return the lines of a run's segments in a store, in order."""
    return [
        line
        for name in store.list(f"{SEGMENTS}/{run_id}/")
        for line in whole_lines(store.read(name))[0]
    ]
