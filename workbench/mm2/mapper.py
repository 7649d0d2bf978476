"""Reads to hits: seed, chain, join, choose; a batch of reads at a time over threads, in the order of the file."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Literal

from workbench.kernels.chain import GPU, ChainParams, Chains, Unsupported, chain, chains, join_needed, rmq_chain
from workbench.kernels.seed import COLUMNS, Seeds, regions
from workbench.mm2.index import Index, open_index
from workbench.mm2.io import Record, batches, read
from workbench.mm2.paf import Hit
from workbench.mm2.presets import Preset, preset_of

Mode = Literal["exact_skip25", "full"]
SKIP = {"exact_skip25": 25, "full": None}  # predecessors in a row that may fail before the search for one ends
BATCH = 250_000  # bases handed to a thread at once: some tens of milliseconds of work
GPU_BATCH = 8_000_000  # where a GPU chains: up to some millions of anchors, of which it takes 2**20 at a time


@dataclass(frozen=True, slots=True)
class Mapped:
    """What became of one read; seconds are of this read's own work, on one thread."""

    name: str
    length: int
    hits: list[Hit]
    anchors: int
    seed_s: float
    chain_s: float
    join_s: float  # the second pass of chaining, over long gaps
    region_s: float


class Mapper:
    """Maps reads onto one index; may be shared by threads.

    `mode` "exact_skip25" gives what minimap2 gives; "full" looks at every predecessor in the window, as minimap2
    does with an unlimited --max-chain-skip. `backend` is one of the chain kernel's: "cpu" takes the best loop of the
    processor, "cuda" and "hip" chain the reads of a batch together on a GPU (never run on one here), "auto" takes a GPU
    that passed its self-check, in mode "full" and if there is one. Raises ValueError for an unknown mode or preset, for
    an index made with other parameters than the preset's, and with the reason for a GPU that cannot be used.
    """

    def __init__(
        self, index: Index, preset: str | Preset = "map-ont", mode: Mode = "exact_skip25", backend: str = "auto"
    ) -> None:
        if mode not in SKIP:
            raise ValueError(f"no mode {mode!r}; there are {', '.join(SKIP)}")
        self.index = index
        self.preset = preset_of(preset) if isinstance(preset, str) else preset
        index.check(self.preset, "the index given")
        self.seed_params = index.params(self.preset)
        p = self.preset
        self.chain_params = ChainParams(
            max_dist_x=p.max_gap,
            max_dist_y=p.max_gap,
            bw=p.bw,
            bw_long=p.bw_long,
            max_skip=SKIP[mode],
            k=index.seeds.k,
        )
        self.backend = _backend(backend, self.chain_params, self.preset)

    @property
    def on_gpu(self) -> bool:
        """Whether the reads of a batch are chained together, on a GPU."""
        return self.backend in GPU

    @property
    def batch(self) -> int:
        """Bases of the reads to be taken together."""
        return GPU_BATCH if self.on_gpu else BATCH

    def seeds(self, sequence: bytes) -> Seeds:
        """Anchors of a read."""
        return self.index.seeds.seeds(sequence, self.seed_params)

    def chains(self, seeds: Seeds) -> Chains:
        """First pass: chains within the band."""
        if self.preset.rmq:
            return rmq_chain(seeds.anchors, replace(self.chain_params, bw_long=self.preset.bw))
        return chain(seeds.anchors, self.chain_params, backend=self.backend)

    def chains_of(self, many: Sequence[Seeds]) -> list[Chains]:
        """`chains` of several reads, on a GPU all together."""
        if not self.on_gpu:
            return [self.chains(each) for each in many]
        return chains([each.anchors for each in many], self.chain_params, backend=self.backend)

    def join(self, found: Chains, read_length: int) -> Chains:
        """Second pass: all chained anchors again, with a wide band, where minimap2 does it."""
        if not join_needed(found, self.chain_params, read_length):
            return found
        return rmq_chain(found.chained, self.chain_params)

    def hits(self, record: Record, seeds: Seeds, found: Chains) -> list[Hit]:
        """Hits of a read from its chains, best first."""
        if not len(found):
            return []
        table, divergence = regions(
            found.chained,
            found.u,
            seeds,
            record.name.encode("utf-8", "surrogateescape"),
            len(record.sequence),
            self.index.seeds.lengths,
            k=self.index.seeds.k,
            max_gap=self.preset.max_gap,
            best_n=self.preset.best_n,
        )
        rows = zip(table.tolist(), divergence.tolist())
        return [_hit(record, row, div, seeds.repetitive, self.index) for row, div in rows]

    def map(self, record: Record) -> Mapped:
        """One read, from bases to hits."""
        return self.map_all([record])[0]

    def map_all(self, records: Sequence[Record]) -> list[Mapped]:
        """Several reads. On a GPU `chain_s` is each read's share of the time of all, by its anchors."""
        if not self.on_gpu:
            return [self._mapped(record, *self._seeded(record)) for record in records]
        seeded = [self._seeded(record) for record in records]
        began = perf_counter()
        found = self.chains_of([seeds for seeds, _ in seeded])
        took, anchors = perf_counter() - began, max(1, sum(len(seeds.anchors) for seeds, _ in seeded))
        return [
            self._mapped(record, seeds, seed_s, (chains_, took * len(seeds.anchors) / anchors))
            for record, (seeds, seed_s), chains_ in zip(records, seeded, found, strict=True)
        ]

    def _seeded(self, record: Record) -> tuple[Seeds, float]:
        began = perf_counter()
        return self.seeds(record.sequence), perf_counter() - began

    def _mapped(
        self, record: Record, seeds: Seeds, seed_s: float, chained: tuple[Chains, float] | None = None
    ) -> Mapped:
        """What is left to do of a read: chaining, if no GPU has done it, the long join, hits."""
        began = perf_counter()
        found, chain_s = chained or (self.chains(seeds), perf_counter() - began)
        began = perf_counter()
        found = self.join(found, len(record.sequence))
        joined = perf_counter()
        hits = self.hits(record, seeds, found)
        return Mapped(
            name=record.name,
            length=len(record.sequence),
            hits=hits,
            anchors=len(seeds.anchors),
            seed_s=seed_s,
            chain_s=chain_s,
            join_s=joined - began,
            region_s=perf_counter() - joined,
        )


def place(backend: str, mode: Mode, kernel: str = "auto") -> str:
    """Where a run works: "cpu", "cuda", "hip" or "sim"; "auto" takes a GPU that passed its self-check, else the CPU.

    BackendUnavailable says why a GPU that was asked for by name is not there or not fit.
    """
    from workbench.backends import BackendUnavailable

    if backend == "auto" and (mode != "full" or kernel != "auto"):
        return "cpu"
    if backend not in ("auto", *GPU):
        return backend
    try:
        found = _backend(backend, ChainParams(max_skip=SKIP[mode]), preset_of("map-ont"))
    except Unsupported as error:
        how = f"take backend='cpu', or a machine with {'an AMD' if backend == 'hip' else 'an NVIDIA'} GPU"
        raise BackendUnavailable(f"{str(error).removeprefix('chain: ')}; {how}") from error
    return found if found in GPU else "cpu"


def _backend(asked: str, params: ChainParams, preset: Preset) -> str:
    """The chain kernel's backend. Unsupported says why not a GPU that is asked for."""
    if asked not in ("auto", *GPU):
        return asked
    from workbench.kernels.chain import gpu

    if asked == "auto":
        found = gpu.best(params) if not preset.rmq else None
        return found.kind if found else "cpu"
    if params.max_skip is not None:
        raise Unsupported(
            f"chain: {asked} looks at every predecessor, as minimap2's heuristic does not: take mode full"
        )
    if preset.rmq:
        raise Unsupported(f"chain: {asked} does not do the range queries by which this preset chains")
    gpu.device(asked)
    return asked


def map_reads(
    mapper: Mapper,
    reads: Iterable[Record],
    *,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Mapped]:
    """Every read in order, mapped or not, whatever the number of threads.

    At most threads + 2 batches are under way, so memory does not grow with the number of reads; a batch is larger
    where a GPU chains. `progress(reads,
    bases)` is called after each batch. Closing the generator ends the threads.
    """
    if threads < 1:
        raise ValueError(f"{threads} threads; at least one is needed")
    done = bases = 0
    with closing(_in_order(mapper, batches(reads, mapper.batch), threads)) as results:
        for batch in results:
            done, bases = done + len(batch), bases + sum(mapped.length for mapped in batch)
            yield from batch
            if progress:
                progress(done, bases)


def _in_order(mapper: Mapper, work: Iterator[list[Record]], threads: int) -> Generator[list[Mapped]]:
    if threads == 1:
        yield from (mapper.map_all(batch) for batch in work)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="mm2")
    under_way: deque[Future[list[Mapped]]] = deque()
    try:
        for batch in work:
            under_way.append(pool.submit(mapper.map_all, batch))
            if len(under_way) > threads + 1:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def map_hits(
    reads: str | Path | Iterable[Record],
    reference: str | Path | Index,
    preset: str = "map-ont",
    mode: Mode = "exact_skip25",
    threads: int = 1,
    backend: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Hit]:
    """Hits of reads on a reference, as they are found, in the order of the reads: `workbench.mm2.map`.

    `reads` is a FASTA or FASTQ file (gzip too, "-" for standard input) or records; `reference` a file of sequences,
    an index of ours, a minimap2 .mmi, or an `Index`. Reads without a hit give nothing. Raises ValueError for what
    is wrong in files or arguments, OSError for what cannot be read, the reference's before the first hit.
    """
    chosen = preset_of(preset)
    index = reference if isinstance(reference, Index) else open_index(reference, chosen)
    mapper = Mapper(index, chosen, mode, backend)
    records = read(reads) if isinstance(reads, str | Path) else reads
    for mapped in map_reads(mapper, records, threads=threads, progress=progress):
        yield from mapped.hits


def _hit(record: Record, row: list[int], divergence: float, repetitive: int, index: Index) -> Hit:
    field = dict(zip(COLUMNS, row))
    return Hit(
        query=record.name,
        query_length=len(record.sequence),
        query_start=field["query_start"],
        query_end=field["query_end"],
        strand="-" if field["reverse"] else "+",
        target=index.names[field["sequence"]],
        target_length=index.lengths[field["sequence"]],
        target_start=field["start"],
        target_end=field["end"],
        matches=field["matches"],
        block=field["block"],
        mapq=field["mapq"],
        primary=bool(field["primary"]),
        anchors=field["anchors"],
        score=field["score"],
        second=field["second"],
        divergence=divergence,
        repetitive=repetitive,
    )
