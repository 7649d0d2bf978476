"""cuda_capture.capture from end to end over doubles of torch.cuda, the driver and CUPTI. Prints JSON.

WORKBENCH_CUPTI=.../libcupti.so WORKBENCH_CACHE=FOLDER python cuda_capture_double.py FOLDER
"""

import ctypes
import json
import os
import sys
from pathlib import Path

import torch_double
from cuda_small import BASE, DECLARED, LIBRARY, TENSORS, TRITON, WIDTH, code, fill, probe, step
from driver_double import Double

DRIVER = Double(memory=1 << 31)
torch_double.install(DRIVER)

from workbench.foundry import archive, cuda, cuda_capture  # noqa: E402 after its torch is in place
from workbench.foundry.archive import Refused  # noqa: E402
from workbench.foundry.driver import Unsupported  # noqa: E402

KERNELS, IMAGES = code(DRIVER)


class Subject:
    """The small step as a library would run it: kernels are loaded by its first run, memory is the pool's."""

    tensors = TENSORS
    loaded = False

    def __init__(self, folder, rank=None):
        self.folder, self.rank = folder, rank

    def about(self):
        return {"name": "small"}

    def fill(self, place):
        base = place["table"].data_ptr()
        fill(type("Arena", (), {"write": staticmethod(lambda offset, raw: DRIVER.write(base + offset, raw))}))

    def load(self):
        """CUPTI shows what libraries load, Triton tells its own."""
        cubin = Path(self.folder, "fused.cubin")
        cubin.write_bytes(TRITON)
        for call in torch_double.HOOK.calls:
            call(0, KERNELS["fused"], "fused", {"fused.json": "?", "fused.cubin": str(cubin)}, "")
        shown = ctypes.CDLL(os.environ["WORKBENCH_CUPTI"])
        for image in IMAGES:
            if image.raw != TRITON:
                shown.double_load(image.raw, len(image.raw))

    def step(self, place, size):
        if not Subject.loaded:
            Subject.loaded = True
            self.load()
        made = {name: torch_double.empty(size, WIDTH) for name in ("h", "t", "logits")}
        at = {name: t.data_ptr() for name, t in (made | place).items()}
        torch_double.captured(step(DRIVER, KERNELS, 0, size, self.rank, at))
        return {"logits": made["logits"]}

    def probe(self, size):
        return probe(size)


def refused(call):
    try:
        call()
    except (Refused, Unsupported) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(folder):
    cuda_capture.at = lambda address, t: torch_double.Tensor(address, t.shape, t.dtype)
    path, told, room = Path(folder, "a.foundry"), [], 128 << 20
    made = cuda_capture.capture(
        Subject(folder), (1, 4, 8), path, driver=DRIVER, room=room, said=lambda *a: told.append(a)
    )
    said = {"told": told, "tensors": len(made.tensors), "cleared": torch_double.NOW.cleared}
    said["scratch"] = [min(o.offset for o in g.outputs) >= 2 << 20 for g in made.graphs.values()]
    fresh = Double(seed=5)
    with cuda.load(path, fresh, verify="all", base=BASE + (1 << 35)) as ladder:
        said["verified"] = sorted(ladder.verified)
    said["weights"] = made.weights["bytes"]
    said["written"] = archive.read(path).nbytes > len(LIBRARY)
    ranked = Path(folder, "b.foundry")
    both = {"second_rank": Subject(folder, (1, DECLARED["comm"].second)), "declared": DECLARED}
    Subject.loaded = False
    done = cuda_capture.capture(
        Subject(folder, (0, DECLARED["comm"].first)), (1, 4), ranked, driver=DRIVER, room=room, **both
    )
    said["patches"] = [len(g.patches) for g in done.graphs.values()]
    missing = refused(lambda: cuda_capture.capture(Subject(folder), (1,), path, driver=DRIVER, room=room))
    said["not loaded"] = missing  # all of it was loaded before anybody looked
    Subject.loaded = False
    said["room"] = refused(lambda: cuda_capture.capture(Subject(folder), (1, 8), path, driver=DRIVER, room=4 << 20))
    Subject.loaded = False
    torch_double.NOW.spoil = Spoil()
    said["twice"] = refused(lambda: cuda_capture.capture(Subject(folder), (1,), path, driver=DRIVER, room=room))
    said["left"] = {kind: n for kind, n in DRIVER.left().items() if kind in ("range", "mapping", "bytearray")}
    print(json.dumps(said))


class Spoil:
    """Each replay leaves other bits, as with atomic additions."""

    count = 0

    def __call__(self, graph):
        Spoil.count += 1
        what = next(DRIVER.node(n) for n in DRIVER.nodes(graph.handle)[3:])
        DRIVER.put(int.from_bytes(what.values[0], "little"), bytes([Spoil.count]))


if __name__ == "__main__":
    main(sys.argv[1])
