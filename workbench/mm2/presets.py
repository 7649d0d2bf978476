"""What minimap2 2.24 does for a kind of read: its presets, as far as they bear on mapping without base alignment."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Preset:
    """Parameters of seeding, chaining and hits; the defaults are those of map-ont."""

    name: str
    k: int = 15
    w: int = 10
    hpc: bool = False  # runs of one base count as one
    min_mid_occ: int = 10  # bounds of the number of places above which a minimizer is frequent
    max_mid_occ: int = 1_000_000
    occ_dist: int = 500
    max_gap: int = 5000
    bw: int = 500
    bw_long: int = 20_000  # band of the second pass, which joins chains over long gaps
    rmq: bool = False  # the first pass too looks for the best predecessor in a tree instead of one by one
    best_n: int = 5  # secondary hits


HIFI = Preset("map-hifi", k=19, w=19, max_gap=10_000, min_mid_occ=50, max_mid_occ=500)
ASM = replace(HIFI, bw=1000, bw_long=100_000, rmq=True, best_n=50)
PRESETS = {
    preset.name: preset
    for preset in (
        Preset("map-ont"),
        Preset("map-pb", k=19, hpc=True),
        HIFI,
        replace(ASM, name="asm5"),
        replace(ASM, name="asm10"),
        replace(ASM, name="asm20", w=10),
    )
}


def preset_of(name: str) -> Preset:
    """By name. Raises ValueError naming those there are."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
