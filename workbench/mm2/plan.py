"""From a run's reads to the modelled schedule of one batch: draw reads, schedule every design, keep what is shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from workbench.held import Held
from workbench.mm2 import sim
from workbench.mm2.result import Plan, Timing
from workbench.mm2.shape import CLASSES, Segments, drawn, half_of_work, joined, lorenz, segments, windows

if TYPE_CHECKING:
    from workbench.mm2.config import Mm2Config
    from workbench.mm2.io import Record
    from workbench.mm2.mapper import Mapper

STROKES = 900  # spans of the timeline that are kept
LEVELS = 100  # steps of a curve
SHOWN = ("full design", "not split", "not sorted", "not pooled", "none of these")
PREVIEW_MB = 0.6  # reads that the preview seeds


def plan(config: Mm2Config, parts: Segments, lengths: list[int], device: str | None = None) -> Plan:
    """The schedule of a batch of reads drawn from these, on the config's device or another one."""
    gpu = sim.DEVICES[device or config.sim_device]
    batch = drawn(parts, np.array(lengths, np.int64), config.sim_batch_mbp * 1e6, config.seed)
    asked = sim.schedule(batch, gpu, sim.design_of(config), trace=True)
    all_of_them = {name: sim.schedule(batch, gpu, design, trace=True) for name, design in sim.ABLATIONS.items()}
    kinds, anchors, pairs = batch.kinds(), max(int(batch.anchors.sum()), 1), max(int(batch.pairs.sum()), 1)
    by_read = np.bincount(batch.read, weights=batch.pairs).astype(np.int64) if len(batch) else batch.pairs
    return Plan(
        device=gpu.name,
        batch_mbp=config.sim_batch_mbp,
        segments=len(batch),
        long_segments=int((kinds == 2).sum()),
        ends_s={name: round(o.makespan_s, 9) for name, o in all_of_them.items()},
        bounds_s={name: round(o.bound_s, 9) for name, o in all_of_them.items()},
        busy={name: round(o.busy, 4) for name, o in all_of_them.items()},
        asked=round(asked.makespan_s, 9),
        asked_bound_s=round(asked.bound_s, 9),
        critical_s=round(asked.critical_s, 9),
        strokes=[Held.of(span) for span in asked.spans[:STROKES]],
        levels={name: _thin(all_of_them[name].busy_units) for name in SHOWN},
        lorenz={"segments": lorenz(batch.pairs), "reads": lorenz(by_read)},
        half=half_of_work(batch.pairs),
        classes={
            name: (
                round(int(batch.anchors[kinds == at].sum()) / anchors, 5),
                round(int(batch.pairs[kinds == at].sum()) / pairs, 5),
            )
            for at, name in enumerate(CLASSES)
        },
    )


def timings(found: Plan, anchors: int, pairs: int) -> list[Timing]:
    """The rows of a plan: every design's batch."""
    name = f"{found.device}, {{}}"
    return [
        Timing(
            what="schedule",
            name=name.format(design),
            seconds=seconds,
            anchors=anchors,
            pairs=pairs,
            bound_s=found.bounds_s[design],
            badge="modelled",
        )
        for design, seconds in found.ends_s.items()
    ]


def batch_size(config: Mm2Config, parts: Segments, lengths: list[int]) -> tuple[int, int]:
    """Anchors and pairs of the batch that `plan` schedules."""
    batch = drawn(parts, np.array(lengths, np.int64), config.sim_batch_mbp * 1e6, config.seed)
    return int(batch.anchors.sum()), int(batch.pairs.sum())


def seeded(mapper: Mapper, records: Iterable[Record]) -> Iterator[tuple[Record, Segments]]:
    """Each read with its segments: real anchors, no chaining."""
    for number, record in enumerate(records):
        window = windows(mapper.seeds(record.sequence).anchors, mapper.chain_params)
        yield record, segments(window, number)


@lru_cache(maxsize=4)
def sample(of: Mm2Config) -> tuple[Segments, list[int]]:
    """Segments and lengths of a few of a config's reads: what the preview schedules. Errors are those of the files."""
    from workbench.mm2 import source
    from workbench.mm2.index import build_of
    from workbench.mm2.mapper import Mapper
    from workbench.mm2.presets import preset_of

    genome = list(source.reference(of))
    mapper = Mapper(build_of(iter(genome), preset_of(of.map_preset)), of.map_preset, "full")
    parts, lengths = list[Segments](), list[int]()
    for record, found in seeded(mapper, source.query(of, genome)):
        parts.append(found)
        lengths.append(len(record.sequence))
    return joined(parts), lengths


def of_preview(config: Mm2Config) -> Mm2Config:
    """The config whose reads stand for `config`'s in a preview: the fields that decide the reads, and few of them."""
    names = ("seed", "reads", "reads_file", "reference_file", "satellite_kbp", "map_preset", "error_pct")
    lengths = ("length_kbp_min", "length_kbp_max")
    return type(config)(**{name: getattr(config, name) for name in (*names, *lengths)}, megabases=PREVIEW_MB)


def _thin(levels: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """At most LEVELS steps: the level at equal distances of time, the last one kept."""
    if len(levels) <= LEVELS:
        return [(round(at, 7), level) for at, level in levels]
    times, heights = np.array([at for at, _ in levels]), np.array([level for _, level in levels])
    grid = np.linspace(times[0], times[-1], LEVELS)
    at = np.searchsorted(times, grid, "right") - 1
    return [(round(float(t), 7), int(heights[i])) for t, i in zip(grid, at, strict=True)]
