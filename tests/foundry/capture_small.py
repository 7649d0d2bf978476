"""Run as a program: captures a tiny Llama's first layer and keeps what torch.compile says to other inputs.

python capture_small.py FOLDER -> FOLDER/tiny.foundry, FOLDER/asked.json, FOLDER/seen.json
"""

import hashlib
import json
import random
import sys
from pathlib import Path

import torch

from workbench import lm
from workbench.foundry import capture as module
from workbench.foundry.step import decode_step

SIZES, CAPACITY, SLOTS = (2, 3, 8), 32, 8


def asked(size, round_):
    draw = random.Random(f"{size} {round_}")
    return [draw.randrange(512) for _ in range(size)], [draw.randrange(CAPACITY) for _ in range(size)]


def main(folder):
    torch.set_num_threads(1)
    model = lm.load("tiny")
    kept = []
    real = module.Compiled.__post_init__

    def noted(self):
        real(self)
        kept.append(self)

    module.Compiled.__post_init__ = noted
    made = module.capture(model, SIZES, folder / "tiny.foundry", capacity=CAPACITY, layers=1)
    (compiled,) = kept
    seen, drift = {}, 0.0
    with torch.inference_mode():
        place = module.Place(compiled.shape, 0x650000000000, module.weights_of(model, compiled.shape))
        for size in SIZES:
            for each in place.tensors:
                if each.role == "state":
                    place.seen[each.name].zero_()
            said = []
            for round_ in range(3):  # a little sequence: the second step attends to what the first one wrote
                ids, positions = asked(size, round_)
                place.seen["ids"][:size] = torch.tensor(ids)
                place.seen["positions"][:size] = torch.tensor(positions)
                state = [place.seen[f"0.{w}"].clone() for w in "kv"]
                logits, tokens = compiled.run(place, size)
                said.append([hashlib.sha256(logits.numpy().tobytes()).hexdigest(), tokens.tolist()])
                w, i, p, _, _ = place.arguments(size, False)
                eager, _ = decode_step(compiled.shape, w, i, p, [state[0][:size]], [state[1][:size]])
                drift = max(drift, float((eager - logits).abs().max()))
            seen[str(size)] = said
    (folder / "seen.json").write_text(json.dumps({"said": seen, "drift": drift, "graphs": len(made.graphs)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
