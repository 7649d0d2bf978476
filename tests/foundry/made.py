"""Results made by hand: pictures and summaries are looked at without a compiler."""

from small import small

from workbench import backends
from workbench.foundry import anatomy
from workbench.foundry.config import FoundryConfig
from workbench.foundry.parts import Damaged, Facts, Process, Row, Size
from workbench.foundry.result import FoundryResult
from workbench.held import Held

SIZES = (1, 2)
READY = {"foundry": 1.0, "cold": 100.0, "warm": 20.0, "aoti": 8.0, "eager": 5.0}
STEP = {"foundry": 1000.0, "cold": 1100.0, "warm": 1100.0, "aoti": 1010.0, "eager": 1500.0}


def made(ways=tuple(READY), **changed) -> FoundryResult:
    found = small()
    (key,) = found.templates
    labels, shown, cells = anatomy.cells(found, key)
    fields = {
        "config": FoundryConfig(batches="1,2"),
        "provenance": backends.provenance("cpu", {}),
        "rows": [
            Row(
                way=way, round=0, size=size, ready_s=READY[way] * (0.9 + 0.05 * size), step_us=STEP[way] * size,
                median_us=STEP[way] * size, equal=way == "foundry",
            )
            for way in ways
            for size in SIZES
        ],
        "processes": [
            Process(
                way=way, round=0, import_s=READY[way] * 0.2, load_s=READY[way] * 0.5, ready_s=READY[way], cpu_s=1.0,
                peak_mb=500.0, disk_mb=3.0,
            )
            for way in ways
        ],
        "held": [
            Held(lane="capture", start_s=0.0, end_s=4.0, label="import torch", kind="import"),
            Held(lane="capture", start_s=4.0, end_s=44.0, label="batch 1", kind="capture"),
            Held(lane="AOTInductor: build", start_s=44.0, end_s=90.0, label="make aoti", kind="compile"),
        ],
        "sizes": [
            Size(
                size=size, template=key, record_s=20.0, parameter_bytes=64, differing=size - 1, equal=True,
                control_differs=True,
            )
            for size in SIZES
        ],
        "templates": anatomy.topologies(found),
        "labels": labels,
        "shown": shown,
        "cells": cells,
        "facts": Facts(id="00", archive_mb=3.0, weights_mb=100.0, arena_mb=200.0, binaries=1, binaries_mb=0.1),
        "capture_s": 44.0,
        "said": "00",
    }  # fmt: skip
    return FoundryResult(**(fields | changed)).badged(True)


REFUSED = Damaged(
    what="an archive with a flipped bit", cause="corrupt", why="bit 3 of byte 70 flipped", refused_s=0.3,
    recaptured_s=12.0, equal=True,
)  # fmt: skip
