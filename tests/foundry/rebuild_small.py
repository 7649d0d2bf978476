"""Run as a program, in a fresh process: rebuilds an archive and answers what capture_small asks; prints JSON.

python rebuild_small.py ARCHIVE [taken]: with `taken`, the arena's place is occupied first.
"""

import hashlib
import json
import mmap
import random
import sys
from pathlib import Path

from workbench.foundry.load import load
from workbench.kernels.replay import Arena

CAPACITY = 32


def asked(size, round_):
    draw = random.Random(f"{size} {round_}")
    return [draw.randrange(512) for _ in range(size)], [draw.randrange(CAPACITY) for _ in range(size)]


def main(path, taken):
    occupied = Arena(0x600000000000, mmap.PAGESIZE) if taken else None
    phases, said = [], {}
    runner = load(path, phase=lambda name, _: phases.append(name), verify="all")
    for size in sorted(runner.capture.graphs):
        for each in runner.capture.tensors:
            if each.role == "state":
                runner.view(each.name)[:] = bytes(each.nbytes)
        said[str(size)] = []
        for round_ in range(3):
            logits, tokens = runner.step(*asked(size, round_))
            said[str(size)].append([hashlib.sha256(logits.tobytes()).hexdigest(), tokens])
    heavy = sorted({"torch", "numpy", "pydantic"} & set(sys.modules))
    print(
        json.dumps(
            {
                "said": said,
                "heavy": heavy,
                "phases": phases,
                "relocated": runner.arena.relocated,
                "held": bool(occupied),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), len(sys.argv) > 2)
