"""Chaining of anchors as minimap2 2.24 does it, equal to the last score: DP, backtracking, long join.

    found = chain(anchors, ChainParams(max_skip=None))        # anchors: uint64 [n, 2], minimap2's (x, y), sorted by x
    for score, members in found: ...                          # indices into found.anchors, by target position

    score(i) = max(span(i), max over earlier j in reach of score(j) + gain(j, i))

Two modes: `max_skip=25` is minimap2's default heuristic, `max_skip=None` looks at every predecessor in the window.
Backends: `"reference"` is the definition in Python; `"scalar"` does every setting and is the only one with a limit on
skips; `"avx2"` and `"avx512"` give the same bits in full mode, as does `"one_source"`, the GPU kernels on the CPU.
`"cuda"` and `"hip"` are the same kernels on a GPU (gpu.py), never run on one here: none was at hand. `"auto"` takes the
best that can do what is asked for: for one read a CPU's, for many (`dps`) a GPU that passed its self-check, if there is
one; `"cpu"` the best of the processor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Anchors = NDArray[np.uint64]
    Scored = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]  # f, p, v

Backend = Literal["auto", "cpu", "reference", "scalar", "avx2", "avx512", "one_source", "cuda", "hip"]
VECTOR = ("avx512", "avx2")  # best first
GPU = ("cuda", "hip")


class Unsupported(ValueError):
    """A backend was asked for that this processor or these parameters rule out; the message says which."""


@dataclass(frozen=True)
class ChainParams:
    """minimap2's chaining options (2.24 defaults, which are its map-ont); distances in bases.

    `gap_scale` and `skip_scale` are multiplied by 0.01·k to the penalty of one base of gap and of one base between
    seeds. The fields from `bw_long` on are those of the long join.
    """

    max_dist_x: int = 5000
    max_dist_y: int = 5000
    bw: int = 500
    max_skip: int | None = 25
    max_iter: int = 5000
    min_cnt: int = 3
    min_score: int = 40
    gap_scale: float = 0.8
    skip_scale: float = 0.0
    k: int = 15
    is_cdna: bool = False
    n_seg: int = 1
    bw_long: int = 20000
    join_inner_dist: int = 1000
    join_size_cap: int = 100_000
    join_rescue_size: int = 1000
    join_rescue_ratio: float = 0.1

    @property
    def penalties(self) -> tuple[np.float32, np.float32]:
        """Of one base of gap and of one base between seeds, rounded as minimap2 rounds them."""
        gap, skip = (float(np.float32(scale)) * 0.01 * self.k for scale in (self.gap_scale, self.skip_scale))
        return np.float32(gap), np.float32(skip)

    @property
    def simple(self) -> bool:
        """One read, no introns, nothing charged for distance: what the vector backends do."""
        return self.n_seg == 1 and not self.is_cdna and self.skip_scale == 0


PRESETS: dict[str, dict[str, Any]] = {
    "map-ont": {},
    "map-pb": {"k": 19},
    "map-hifi": {"k": 19, "max_dist_x": 10_000, "max_dist_y": 10_000},
}


def preset(name: str, **changes: Any) -> ChainParams:
    """The chaining part of one of minimap2's presets, with changes. KeyError names those there are."""
    if name not in PRESETS:
        raise KeyError(f"no chaining preset is called {name!r}; there are {', '.join(PRESETS)}")
    return ChainParams(**(PRESETS[name] | changes))


@dataclass(frozen=True)
class Stats:
    """How irregular the work on one read is: predecessors in the window of each anchor, and the segments between gaps.

    `windows` int32 [n]; `begins`, `ends`, `pairs` int64, one of each segment; `capped`: max_iter cut some window.
    """

    windows: NDArray[np.int32]
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    pairs: NDArray[np.int64]
    capped: bool


@dataclass(frozen=True)
class Chains:
    """Chains of one read by target position of their first anchor, and what they were found from.

    `u` holds score<<32 | count of each chain, `members` the indices into `anchors`, ascending within a chain, one
    chain after the other. `f`, `p` and `v` are score, predecessor (-1: none) and peak of every anchor.
    """

    anchors: Anchors
    f: NDArray[np.int32]
    p: NDArray[np.int64]
    v: NDArray[np.int32]
    u: NDArray[np.uint64]
    members: NDArray[np.int64]

    @property
    def scores(self) -> NDArray[np.int64]:
        """One of each chain."""
        return (self.u >> np.uint64(32)).astype(np.int64)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Anchors of each chain."""
        return (self.u & np.uint64(0xFFFFFFFF)).astype(np.int64)

    @property
    def chained(self) -> Anchors:
        """The anchors of all chains, in the order of `members`: what minimap2 hands on."""
        return self.anchors[self.members]

    def __len__(self) -> int:
        return len(self.u)

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        ends = np.cumsum(self.counts)
        for score, count, end in zip(self.scores.tolist(), self.counts.tolist(), ends.tolist()):
            yield score, self.members[end - count : end]


def available(params: ChainParams | None = None) -> list[str]:
    """Backends that can do this here, the one that "auto" takes first. Without parameters: of full mode."""
    from workbench.kernels.chain import _chain

    params = params or ChainParams(max_skip=None)
    vector = [name for name in VECTOR if _chain.has(_chain.Backend[name])]
    if not params.simple or params.max_skip is not None:
        return ["scalar", "reference"]
    return [*vector, "scalar", "one_source", "reference"]


def dp(anchors: Anchors, params: ChainParams, *, backend: str = "auto") -> Scored:
    """Score f, predecessor p (-1: none) and peak v of every anchor. ValueError: anchors unsorted or out of range.

    Unsupported (a ValueError) when `backend` cannot do these parameters or is not of this machine.
    """
    if backend == "reference":
        from workbench.kernels.chain import reference

        return reference.dp(checked(anchors), params)
    from workbench.kernels.chain import _chain

    if backend in GPU:
        return dps([anchors], params, backend=backend)[0]
    there = available(params)
    unpruned = {f"{name}_every_pair" for name in there if name in VECTOR}  # what pruning is measured against
    if backend not in {*there, *unpruned, "auto", "cpu"}:
        known = {*VECTOR, "scalar", "one_source"}
        why = "is not of this processor or does not do these parameters" if backend in known else "is unknown"
        raise Unsupported(f"chain: backend {backend!r} {why}; here there are auto, {', '.join(there)}")
    name = there[0] if backend in ("auto", "cpu") else backend
    if name == "one_source":
        from workbench.kernels.chain import one_source

        return one_source.run([anchors], params).reads[0]
    return _chain.dp(checked(anchors), native(params), _chain.Backend[name])


def dps(reads: Sequence[Anchors], params: ChainParams, *, backend: str = "auto") -> list[Scored]:
    """`dp` of many reads together, which is what a GPU needs; elsewhere one after the other.

    The first use of a GPU compiles the kernels and replays a few thousand anchors on it. Unsupported says why a GPU
    that was asked for is not there or not fit; RuntimeError is in its driver's words.
    """
    from workbench.kernels.chain import gpu, one_source

    chosen = gpu.best(params) if backend == "auto" and reads else None
    if backend in GPU:
        chosen = gpu.device(backend)
    if chosen is not None:
        return chosen.run(reads, params).reads
    if backend == "one_source":
        return one_source.run(reads, params).reads
    return [dp(each, params, backend=backend) for each in reads]


def backtrack(
    f: NDArray[np.int32], p: NDArray[np.int64], v: NDArray[np.int32], params: ChainParams, *, backend: str = "auto"
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Chains in the order they are found, best end first: u and members as in `Chains`.

    Equal scores are walked in the order that minimap2's unstable radix sort leaves them.
    """
    if not len(f) == len(p) == len(v):
        raise ValueError("chain: f, p and v differ in length")
    if backend == "reference":
        from workbench.kernels.chain import reference

        return reference.backtrack(f, p, params)
    from workbench.kernels.chain import _chain

    scores, previous = np.ascontiguousarray(f, np.int32), np.ascontiguousarray(p, np.int64)
    return _chain.backtrack(scores, previous, native(params))


def compact(
    anchors: Anchors, u: NDArray[np.uint64], members: NDArray[np.int64], *, backend: str = "auto"
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The same chains by target position of their first anchor, equal ones as minimap2's sort leaves them."""
    if backend == "reference":
        from workbench.kernels.chain import reference

        return reference.compact(anchors, u, members)
    from workbench.kernels.chain import _chain

    chains, indices = np.ascontiguousarray(u, np.uint64), np.ascontiguousarray(members, np.int64)
    return _chain.compact(checked(anchors), chains, indices)


def chain(anchors: Anchors, params: ChainParams, *, backend: str = "auto") -> Chains:
    """All of it: DP, backtracking, order by target. The long join is `rmq_chain`, after `join_needed`."""
    return _chains(anchors, *dp(anchors, params, backend=backend), params, backend)


def chains(reads: Sequence[Anchors], params: ChainParams, *, backend: str = "auto") -> list[Chains]:
    """`chain` of many reads, their dynamic programmes together as in `dps`."""
    scored = dps(reads, params, backend=backend)
    return [_chains(each, *found, params, backend) for each, found in zip(reads, scored, strict=True)]


def join_needed(found: Chains, params: ChainParams, read_length: int) -> bool:
    """minimap2's rule: more than one chain, and the first one leaves more than `join_rescue_size` bases of the read
    uncovered or covers more than `join_rescue_ratio` of it.
    """
    if params.bw_long <= params.bw or params.is_cdna or params.n_seg != 1 or len(found) < 2:
        return False
    first = found.chained[: int(found.counts[0])]
    covered = int(first[-1, 1] & np.uint64(0xFFFFFFFF)) - int(first[0, 1] & np.uint64(0xFFFFFFFF))
    share = np.float32(read_length) * np.float32(params.join_rescue_ratio)
    return read_length - covered > params.join_rescue_size or bool(np.float32(covered) > share)


def rmq_chain(chained: Anchors, params: ChainParams) -> Chains:
    """The long join: chains of the anchors of all chains (`Chains.chained`), over gaps up to `bw_long`.

    Sorts them first as minimap2 does, by x and unstably: the result's `anchors` is in that order.
    """
    from workbench.kernels.chain import _chain

    chained = np.ascontiguousarray(chained, np.uint64).reshape(-1, 2)
    anchors = chained[_chain.order(np.ascontiguousarray(chained[:, 0]))]
    gap, skip = params.penalties
    limit = _chain.UNLIMITED if params.max_skip is None else params.max_skip
    shape = (params.max_dist_y, params.join_inner_dist, params.bw_long, limit, params.join_size_cap)
    f, p, v = _chain.dp_rmq(anchors, _chain.JoinParams(*shape, gap, skip))
    return _chains(anchors, f, p, v, dataclasses.replace(params, bw=params.bw_long, is_cdna=False), "auto")


def chain_read(anchors: Anchors, params: ChainParams, read_length: int, *, backend: str = "auto") -> Chains:
    """`chain`, and the long join where minimap2 does it."""
    found = chain(anchors, params, backend=backend)
    return rmq_chain(found.chained, params) if join_needed(found, params, read_length) else found


def stats(anchors: Anchors, params: ChainParams) -> Stats:
    """Windows and segments of one read. A segment begins wherever no earlier anchor is in reach."""
    from workbench.kernels.chain import _chain

    windows, cut = _chain.windows(checked(anchors), native(params))
    begins = np.flatnonzero(windows == 0).astype(np.int64)
    ends = np.append(begins[1:], len(windows)) if len(begins) else begins
    pairs = np.add.reduceat(windows.astype(np.int64), begins) if len(begins) else begins
    return Stats(windows, begins, ends, pairs, bool(cut.any()))


def _chains(anchors: Anchors, f: Any, p: Any, v: Any, params: ChainParams, backend: str) -> Chains:
    backend = "reference" if backend == "reference" else "auto"
    u, members = backtrack(f, p, v, params, backend=backend)
    u, members = compact(anchors, u, members, backend=backend)
    return Chains(anchors, f, p, v, u, members)


def checked(anchors: Anchors) -> Anchors:
    """As a contiguous array uint64 [n, 2]. ValueError for another shape."""
    found = np.ascontiguousarray(anchors, np.uint64)
    if found.ndim != 2 or found.shape[1] != 2:
        raise ValueError(f"chain: anchors must have the shape [n, 2], not {list(found.shape)}")
    return found


def native(params: ChainParams) -> Any:
    """The parameters as the native stages take them."""
    from workbench.kernels.chain import _chain

    limit = _chain.UNLIMITED if params.max_skip is None else params.max_skip
    window = (params.max_dist_x, params.max_dist_y, params.bw, limit, params.max_iter)
    floors = (params.min_cnt, params.min_score)
    return _chain.Params(*window, *floors, *params.penalties, params.is_cdna, params.n_seg)
