"""RLBoost's migration with CAKE: load the dead engine's KV checkpoint, or recompute, whichever meets first.

    with migrate.killed() as died:          a process decodes, keeps its KV in CAKE's store, and gets SIGKILL
        found = migrate.measure(died)       a survivor takes each response over, by every way, interleaved

When an engine dies, RLBoost (arXiv 2510.19225, section 4.2) sends a response's tokens to another one, which prefills
them all anew. CAKE (arXiv 2410.03065) fills a KV cache from the front by computing and from the back by loading. Here
the second serves the first: what lies in the store is the dead engine's KV, of prompt and response alike.

    recompute   RLBoost's own: the survivor's engine prefills prompt and tokens
    compute     the same by CAKE's engine
    load        everything that the checkpoint has is loaded, the rest is computed
    cake        from both ends, by CAKE's policy
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import torch

from workbench import lm
from workbench.cake.costs import Costs, fit_compute
from workbench.cake.engine import Embedded
from workbench.cake.policy import Mode, Policy
from workbench.cake.store import HEADER_BYTES, DiskStore, Store, StoredPrompt
from workbench.child import Child
from workbench.combine.checkpoint import endless, open_store
from workbench.lm.threads import compute_threads
from workbench.rlboost.rollout import Ask, Rollouts

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Way = Literal["recompute", "compute", "load", "cake"]
MB = 1e6
PATIENCE_S = 180.0  # without a word from the engine that is to be killed
ROOM = 512  # tokens beyond those that are wanted: the engine is killed long before it has them


@dataclass(frozen=True)
class Pass:
    """A step of the engine that died: tokens it prefilled, its seconds, and those of the checkpoint after it."""

    prompts: int
    step_s: float
    keep_s: float


class Died:
    """What is left of a killed engine: the tokens that were told, and its store. Closing it deletes the store."""

    def __init__(
        self, scratch: tempfile.TemporaryDirectory[str], model: lm.LM, grain: int, seed: int, asks: Sequence[Ask],
        passes: Sequence[Pass],
    ) -> None:  # fmt: skip
        self._scratch, self.model, self.seed = scratch, model, seed
        self.asks, self.passes = tuple(asks), tuple(passes)
        self.store = open_store(model, Path(scratch.name) / "store", grain)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Delete the checkpoint."""
        self._scratch.cleanup()


def killed(
    model: str = "smollm2", prompts: Sequence[int] = (113, 241), tokens: int = 48, grain: int = 32, seed: int = 7
) -> Died:
    """An engine in a process of its own, killed (SIGKILL) when each response has `tokens` tokens told.

    It decodes prompts of these lengths together. ChildDied: it fell by itself.
    """
    own, scratch = endless(model), tempfile.TemporaryDirectory(prefix="workbench-migrate-")
    try:
        asks = {f"r{n}": lm.prompt(own, length, seed + n) for n, length in enumerate(prompts)}
        told, passes = _until_killed(own, asks, tokens, grain, seed, Path(scratch.name))
        left = [Ask(name, tuple(ids), tuple(told[name]), tokens + ROOM) for name, ids in asks.items()]
        return Died(scratch, own, grain, seed, left, passes)
    except BaseException:
        scratch.cleanup()
        raise


def _until_killed(
    model: lm.LM, asks: dict[str, list[int]], tokens: int, grain: int, seed: int, folder: Path
) -> tuple[dict[str, list[int]], list[Pass]]:
    """Tokens as they were told until the kill, and the steps."""
    told: dict[str, list[int]] = {name: [] for name in asks}
    passes: list[Pass] = []
    job = {
        "model": model.name, "seed": seed, "grain": grain, "folder": str(folder / "store"), "prompts": asks,
        "most": tokens + ROOM,
    }  # fmt: skip
    environment = {"OMP_NUM_THREADS": "1"}
    child = Child([sys.executable, "-m", "workbench.combine.checkpoint"], folder, environment, "engine")
    try:
        child.send(job)
        while min(map(len, told.values())) < tokens:
            for line in child.read(0.05):
                for name, ids in line["tokens"].items():
                    told[name] += ids
                passes.append(Pass(line["prompts"], line["step_s"], line["keep_s"]))
            child.check_silence(PATIENCE_S)
        os.kill(child.process.pid, signal.SIGKILL)
    finally:
        child.end()
    return told, passes


@dataclass(frozen=True)
class Row:
    """One response taken over once. Seconds from having its tokens until its next token."""

    way: Way
    tokens: int  # prompt and response so far
    link_mb_s: float  # of the store, by a token bucket over real reads; 0: the way reads nothing
    link: float  # the same over the balance point
    round: int
    seconds: float
    loaded_tokens: int
    same_tokens: bool  # as the undisturbed engine's
    kv_max_abs_diff: float  # of all KV, against the undisturbed engine's
    equal_tokens: int  # whose KV is the undisturbed engine's to the bit: those that were loaded, at least
    refused: int = 0  # grains that the store did not give out


@dataclass(frozen=True)
class Control:
    """What became of a damaged checkpoint, and of the same without its checks."""

    what: str
    refused: int  # grains
    same_tokens: bool
    kv_max_abs_diff: float


@dataclass(frozen=True)
class Migration:
    """Responses of a dead engine, taken over by every way at every length and link speed; all measured."""

    model: str
    rows: tuple[Row, ...]
    passes: tuple[Pass, ...]
    controls: tuple[Control, ...]
    grain: int
    token_bytes: int
    responses: int

    def seconds(self, way: Way, tokens: int, link: float = 0.0) -> float:
        """Median over the rounds."""
        return float(median(r.seconds for r in self.rows if (r.way, r.tokens, r.link) == (way, tokens, link)))

    @property
    def lengths(self) -> list[int]:
        return sorted({r.tokens for r in self.rows})

    @property
    def links(self) -> list[float]:
        """Link speeds over the balance point, rising."""
        return sorted({r.link for r in self.rows if r.link})

    @property
    def exact(self) -> bool:
        """Same tokens every time, loaded KV to the bit; a flipped bit is refused, unchecked damage changes tokens."""
        flipped, whole, damaged = self.controls
        good = flipped.same_tokens and flipped.refused == 1 and whole.same_tokens and not damaged.same_tokens
        return good and all(r.same_tokens and r.equal_tokens >= r.loaded_tokens for r in self.rows)

    @property
    def keeping(self) -> float:
        """Seconds of the checkpoint over those of the steps, where nothing but decoding was done."""
        alone = [p for p in self.passes if not p.prompts]
        return sum(p.keep_s for p in alone) / sum(p.step_s for p in alone)

    @property
    def kept_mb_s(self) -> float:
        """KV that decoding makes, and a link to the store must carry: the median step's, of all responses together."""
        step_s = median(p.step_s for p in self.passes if not p.prompts)
        return self.responses * self.token_bytes / MB / step_s

    def to_frame(self) -> pd.DataFrame:
        """A row a takeover."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])

    def sentence(self) -> str:
        """What was found."""
        longest = self.lengths[-1]
        own = self.seconds("recompute", longest)
        said = [
            f"at {link:g}x the balance CAKE {self.seconds('cake', longest, link):.2f} s, "
            f"load only {self.seconds('load', longest, link):.2f} s"
            for link in self.links
        ]
        return (
            f"A response of {longest} tokens goes on after {own:.2f} s where its KV is computed again; "
            f"{'; '.join(said)} (measured, medians). "
            f"{'Its tokens are' if self.exact else 'NOT EVERY TOKEN IS'} the undisturbed engine's. "
            f"Keeping the checkpoint takes {100 * self.keeping:.1f} % of decoding and {self.kept_mb_s:.2f} MB/s."
        )

    def figure(self) -> go.Figure:
        """Seconds to the next token, by way, a panel a length."""
        from workbench.combine.figures import migration

        return migration(self)


@compute_threads(1)
def measure(
    died: Died, links: Sequence[float] = (0.5, 1.0, 4.0), rounds: int = 3, step: int = 96, more: int = 6
) -> Migration:
    """Take every response over by every way, `rounds` times, there and back.

    links: bandwidths over the balance point, where loading a response takes as long as computing it. step: most tokens
    a pass of CAKE's computes; RLBoost's engine takes 96. more: tokens after the migration that are compared, in the
    first round; the others compare the next one.
    """
    survivor = _Survivor(died, step, more)
    rows: list[Row] = []
    for number in range(rounds):
        for at, ask in enumerate(died.asks):
            jobs: list[tuple[Way, float]] = [("recompute", 0.0), ("compute", 0.0)]
            jobs += [(way, link) for link in links for way in ("load", "cake")]
            for way, link in jobs if (number + at) % 2 == 0 else jobs[::-1]:
                rows.append(survivor.take_over(ask, way, link, number, more if number == 0 else 1))
    controls = survivor.controls(min(died.asks, key=lambda a: len(a.prompt)), more)
    layout = died.store.layout
    return Migration(
        died.model.name, tuple(rows), died.passes, controls, layout.tokens, layout.nbytes // layout.tokens,
        len(died.asks),
    )  # fmt: skip


class _Survivor:
    """The engine that takes over, what an undisturbed one did, and what computing costs here."""

    def __init__(self, died: Died, step: int, more: int) -> None:
        self.died, self.model, self.step = died, died.model, step
        self.sampler = lm.Sampler(1.0, seed=died.seed)
        self.expected, self.kv = self._undisturbed(more)
        longest = max((self._ids(ask) for ask in died.asks), key=len)
        guess = Costs(0.01, 0.005, 1e-7, 1.0)
        warm = Embedded(self.model, died.store)
        passes = [p for _ in range(2) for p in warm.restore([longest], Policy(guess, step, mode="compute"))[0].passes]
        step_s, token_s, pair_s = fit_compute(passes[len(passes) // 2 :])
        self.costs = replace(guess, step_s=step_s, token_s=token_s, pair_s=pair_s)

    def _ids(self, ask: Ask) -> list[int]:
        """What needs KV before the next token is made: all but the last token, which the engine itself runs."""
        return [*ask.prompt, *ask.done][:-1]

    def _undisturbed(self, more: int) -> tuple[dict[str, list[int]], dict[str, torch.Tensor]]:
        """Tokens of the same asks in an engine that nobody kills, and their KV up to where the other one died."""
        engine = Rollouts(self.model, self.sampler, slots=len(self.died.asks))
        wanted = {ask.request: len(ask.done) + more for ask in self.died.asks}
        said: dict[str, list[int]] = {name: [] for name in wanted}
        for ask in self.died.asks:
            engine.give(replace(ask, done=()))
        kv: dict[str, torch.Tensor] = {}
        while any(len(said[name]) < wanted[name] for name in wanted):
            for piece in engine.step():
                said[piece.request] += piece.ids
            for ask in self.died.asks:
                need = len(self._ids(ask))
                if ask.request not in kv and ask.request in engine.running:
                    ids, cache = engine.filled(ask.request)
                    if len(ids) >= need:
                        kv[ask.request] = cache.read(0, need)
        for ask in self.died.asks:
            if tuple(said[ask.request][: len(ask.done)]) != ask.done:
                raise RuntimeError(f"{ask.request}: the engine that died said other tokens than the undisturbed one")
        return {name: said[name][most - more : most] for name, most in wanted.items()}, kv

    def link_mb_s(self, ask: Ask, link: float) -> float:
        """Of `link` times the bandwidth at which loading a response takes as long as computing it."""
        layout, ids = self.died.store.layout, self._ids(ask)
        compute_s = self.costs.compute_range_s(0, len(ids), self.step)
        return link * len(ids) * layout.nbytes / layout.tokens / MB / compute_s

    def take_over(self, ask: Ask, way: Way, link: float, number: int, more: int, store: Store | None = None) -> Row:
        """One response, one way, as if nothing of it were here."""
        store, ids = store or self.died.store, self._ids(ask)
        engine, rest = Rollouts(self.model, self.sampler, slots=1), replace(ask, most=len(ask.done) + more + 1)
        mb_s, loaded, refused, cache = 0.0, 0, 0, None
        began = time.perf_counter()
        if way == "recompute":
            engine.give(rest)
        else:
            mb_s = self.link_mb_s(ask, link) if link else 0.0
            layout = store.layout
            token_s = layout.nbytes / layout.tokens / (mb_s * MB) if mb_s else 1.0
            policy = Policy(replace(self.costs, load_token_s=token_s), self.step, mode=_MODES[way])
            (restored,) = Embedded(self.model, store, mb_s).restore([ids], policy)
            loaded, refused = restored.loaded_tokens, sum(restored.failures.values())
            cache = restored.cache
            engine.give(rest, cache)
        said: list[int] = []
        while not said:
            said += [token for piece in engine.step() for token in piece.ids]
        seconds = time.perf_counter() - began
        if cache is None:
            cache = engine.filled(ask.request)[1]
        kv = cache.read(0, len(ids)), self.kv[ask.request]  # [layers, 2, kv_heads, tokens, head_dim]
        apart, equal = float((kv[0] - kv[1]).abs().max()), int((kv[0] == kv[1]).all(4).all(2).all(1).all(0).sum())
        while len(said) < more and engine.running:
            said += [token for piece in engine.step() for token in piece.ids]
        same = said[:more] == self.expected[ask.request][:more]
        return Row(way, len(ids) + 1, mb_s, link, number, seconds, loaded, same, apart, equal, refused)

    def controls(self, ask: Ask, more: int) -> tuple[Control, ...]:
        """A bit flipped, which must be refused; without checks: the checkpoint as it is, then with a grain negated."""
        store, ids = self.died.store, self._ids(ask)
        prompt = store.prompt(ids)
        grain = max(i for i, there in enumerate(prompt.stored) if there)
        path = store.path(prompt.keys[grain])
        whole = path.read_bytes()
        unchecked = _Unchecked(store)

        def control(what: str, raw: bytes, source: Store) -> Control:
            path.write_bytes(raw)
            try:
                row = self.take_over(ask, "load", 4.0, 0, more, source)
            finally:
                path.write_bytes(whole)
            return Control(what, row.refused, row.same_tokens, row.kv_max_abs_diff)

        flipped, negated = bytearray(whole), bytearray(whole)
        flipped[-1] ^= 1
        for at in range(HEADER_BYTES + 3, len(whole), 4):  # the sign of a little-endian float32
            negated[at] ^= 0x80
        return (
            control("one bit of a grain flipped, checks on", bytes(flipped), store),
            control("nothing damaged, checks off", whole, unchecked),
            control("signs of a grain flipped, checks off", bytes(negated), unchecked),
        )


_MODES: dict[str, Mode] = {"compute": "compute", "load": "load", "cake": "cake"}


class _Unchecked:
    """The control's reader: a disk store's bytes, with no look at checksum or header."""

    def __init__(self, store: DiskStore) -> None:
        self.store, self.layout = store, store.layout

    def prompt(self, ids: Sequence[int]) -> StoredPrompt:
        """The same grains."""
        return _UncheckedPrompt(self.store, ids)

    def close(self) -> None:
        """Nothing is held open."""


class _UncheckedPrompt:
    def __init__(self, store: DiskStore, ids: Sequence[int]) -> None:
        self.store, self.layout = store, store.layout
        found = store.prompt(ids)
        self.keys, self.stored, self.write = found.keys, found.stored, found.write

    def read(self, grain: int) -> torch.Tensor:
        """Whatever lies there."""
        raw = bytearray(self.store.path(self.keys[grain]).read_bytes()[HEADER_BYTES:])
        return torch.frombuffer(raw, dtype=torch.float32).view(self.layout.shape)
