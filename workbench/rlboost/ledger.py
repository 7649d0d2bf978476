"""The token ledger: which position of which request was made where, and that each was made exactly once.

    ledger = Ledger()
    ledger.open("r1", prompt_tokens=12)
    ledger.add("r1", start=0, ids=[5, 9], logprobs=[-0.1, -2.0], source="spot-1", version=3)
    ledger.close("r1", "stop");  ledger.faults()     # []: nothing lost, nothing twice

Tokens come from many instances, in pieces, over connections that break. A piece says where it begins: one that begins
behind the end leaves a gap, one that begins before it repeats what is there, and both are refused and counted. So what
the trainer sees is positions 0 to n - 1 of every request, whatever happened on the way. Kept as JSON lines, it is what
a trainer that died goes on from in the middle of a step.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from workbench import aside

FORMAT = 1


class LedgerError(ValueError):
    """A piece that does not fit, or a file that is no ledger; the message says where and why."""


@dataclass
class Entry:
    """One request: its tokens in order, and the pieces that they came in (source, version, first position, count)."""

    prompt_tokens: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    pieces: list[tuple[str, int, int, int]] = field(default_factory=list)
    ended: str = ""

    @property
    def sources(self) -> list[str]:
        """Instances that worked on it, in order, each as often as it took over."""
        return [s for s, *_ in self.pieces]


class Ledger:
    """All requests of a step. Not for several threads at once: whoever collects, owns it."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.counts = Counter[str]()  # refused pieces and tokens, by kind

    def open(self, request: str, prompt_tokens: int) -> None:
        """A new request. LedgerError where there is one of this name."""
        if request in self.entries:
            raise LedgerError(f"request {request!r} is in the ledger already")
        self.entries[request] = Entry(prompt_tokens)

    def add(
        self, request: str, start: int, ids: Sequence[int], logprobs: Sequence[float], source: str, version: int
    ) -> None:
        """Tokens `ids` at positions start onwards, made by `source` with weights `version`.

        LedgerError: refused, and counted. Positions count a request's own tokens, the first is 0. A refused piece
        changes nothing.
        """
        entry = self._entry(request)
        if len(ids) != len(logprobs):
            raise LedgerError(f"{request}: {len(ids)} tokens with {len(logprobs)} log-probabilities")
        if entry.ended:
            raise self._refused("late", len(ids), f"{request} has ended ({entry.ended}), {source} adds to it")
        if start > len(entry.ids):
            raise self._refused(
                "gap", len(ids), f"{request}: {source} goes on at {start}, the ledger is at {len(entry.ids)}"
            )
        if start < len(entry.ids):
            raise self._refused("twice", len(ids), f"{request}: {source} repeats position {start} of {len(entry.ids)}")
        if not ids:
            return
        entry.ids += [int(i) for i in ids]
        entry.logprobs += [float(p) for p in logprobs]
        last = entry.pieces[-1] if entry.pieces else None
        if last and last[0] == source and last[1] == version:
            entry.pieces[-1] = (source, version, last[2], last[3] + len(ids))
        else:
            entry.pieces.append((source, version, start, len(ids)))

    def close(self, request: str, reason: str) -> None:
        """The request has its end: "stop" or "length". LedgerError where it has one, or no reason is given."""
        entry = self._entry(request)
        if entry.ended or not reason:
            raise LedgerError(
                f"{request} has ended already ({entry.ended})" if entry.ended else f"{request}: no reason"
            )
        entry.ended = reason

    def restart(self, request: str) -> int:
        """Throw away what it has, to be made anew; how many tokens that were. LedgerError where it has ended."""
        entry = self._entry(request)
        if entry.ended:
            raise LedgerError(f"{request} has ended ({entry.ended}): nothing of it is made anew")
        discarded = len(entry.ids)
        entry.ids, entry.logprobs, entry.pieces = [], [], []
        return discarded

    def unfinished(self) -> dict[str, Entry]:
        """What still has to be generated, by request: where a resumed step goes on."""
        return {name: entry for name, entry in self.entries.items() if not entry.ended}

    def tokens(self) -> int:
        """Tokens held, over all requests."""
        return sum(len(entry.ids) for entry in self.entries.values())

    def faults(self, versions: Sequence[int] | None = None) -> list[str]:
        """What is wrong with it, in words; [] where every position is there once, in order, of one of `versions`."""
        found = []
        for name, entry in self.entries.items():
            at = 0
            for source, version, start, count in entry.pieces:
                if start != at:
                    found.append(f"{name}: the piece of {source} begins at {start}, not at {at}")
                if versions is not None and version not in versions:
                    found.append(f"{name}: {count} tokens of {source} are of weights {version}")
                at = start + count
            if at != len(entry.ids) or len(entry.logprobs) != len(entry.ids):
                found.append(
                    f"{name}: pieces of {at} tokens, {len(entry.ids)} ids, {len(entry.logprobs)} log-probabilities"
                )
            if not entry.ended:
                found.append(f"{name}: has no end")
        return found

    def audit(self, most: int) -> tuple[int, int]:
        """(positions that are missing, positions that are there twice), by its pieces; `most` a response may have.

        A response without an end misses what it may still have had.
        """
        lost = twice = 0
        for entry in self.entries.values():
            at = 0
            for _, _, start, count in entry.pieces:
                lost, twice = lost + max(0, start - at), twice + max(0, at - start)
                at = start + count
            lost += 0 if entry.ended else max(0, most - at)
        return lost, twice

    def digest(self) -> str:
        """Hash of all tokens by request, whoever made them: equal for two runs that generated the same."""
        content = hashlib.sha256()
        for name in sorted(self.entries):
            content.update(json.dumps([name, self.entries[name].ids]).encode())
        return content.hexdigest()[:16]

    def _entry(self, request: str) -> Entry:
        if request not in self.entries:
            raise LedgerError(f"no request {request!r} was opened")
        return self.entries[request]

    def _refused(self, kind: str, tokens: int, said: str) -> LedgerError:
        self.counts[kind] += 1
        self.counts[f"{kind} tokens"] += tokens
        return LedgerError(said)

    def save(self, file: Path, told: dict[str, Any] | None = None) -> None:
        """Write it as JSON lines, whole or not at all; `told` is kept in the first line."""
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"format": FORMAT, "requests": len(self.entries), **(told or {})})]
        lines += [json.dumps({"request": name, **asdict(entry)}) for name, entry in self.entries.items()]
        with aside.whole(file) as out:
            out.write(("\n".join(lines) + "\n").encode())

    @classmethod
    def load(cls, file: Path) -> tuple[Ledger, dict[str, Any]]:
        """(ledger, what was told with it). LedgerError names the line that is damaged or missing."""
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise LedgerError(f"{file} cannot be read: {error}") from error
        at = 1
        ledger = cls()
        try:
            told = json.loads(lines[0])
            if told.pop("format") != FORMAT:
                raise LedgerError(f"{file} is of another format than {FORMAT}")
            for line in lines[1:]:
                at += 1
                row = json.loads(line)
                name = row.pop("request")
                row["pieces"] = [tuple(piece) for piece in row["pieces"]]
                ledger.entries[name] = Entry(**row)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, LedgerError):
                raise
            raise LedgerError(f"{file}, line {at}: no entry of a ledger ({type(error).__name__})") from error
        if len(ledger.entries) != told.pop("requests"):
            raise LedgerError(f"{file} breaks off: {len(ledger.entries)} requests are there")
        return ledger, told
