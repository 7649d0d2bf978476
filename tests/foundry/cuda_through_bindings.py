"""Capture, archive, rebuild and update through the real cuda-bindings, over the double as libcuda.so.1. Prints JSON.

python cuda_through_bindings.py FOLDER
"""

import json
import struct
import sys
from pathlib import Path

from cuda_small import BASE, SIZE, captured, code, fill, step, stored
from driver_double import Double
from libcuda_double import serve

from workbench.foundry import cuda
from workbench.foundry.archive import read
from workbench.foundry.cuda_decode import decode
from workbench.foundry.cuda_memory import DeviceArena
from workbench.foundry.cuda_walk import walk
from workbench.foundry.driver import DriverError, Kernel, Memcpy, NoDriver, Unsupported, UpdateRefused
from workbench.foundry.driver_cuda import Cuda, missing


def main(folder):
    double, said = Double(), {}
    plain, _ = captured(driver=Double())
    served = serve(double, folder)
    assert missing() == "", missing()
    said["held"] = [served.held]
    driver = Cuda()
    said["held"].append(served.held)
    said["about"] = driver.about() == double.about()
    done, _ = captured(driver=driver)
    said["same_archive"] = done.sections() == plain.sections()
    path = stored(Path(folder, "a.foundry"), done)
    for way in ("nodes", "graph"):
        with cuda.load(
            path, driver, here=driver.about(), weights=fill, verify="all", way=way, base=BASE + SIZE
        ) as ladder:
            said[way] = [ladder.counts["verified"], ladder.notes, ladder.arena.base == BASE]
    said["read"] = decode(read(path)) == done
    said |= odd_nodes(driver, double, served)
    said["wrong"] = served.kept.get("wrong", [])
    print(json.dumps(said))


def odd_nodes(driver, double, served):
    """A kernel given by one packed buffer, one told as CUkernel, a 2-D copy, a kind that is not carried, errors."""
    arena = DeviceArena(driver, BASE + (1 << 42), SIZE)
    kernels, _ = code(driver)
    graph = step(driver, kernels, arena.base, 2)
    before = walk(driver, graph)
    fused = next(h for h in driver.nodes(graph) if isinstance(driver.node(h), Kernel))
    served.kept[fused] = None
    said = {"packed": walk(driver, graph).row == before.row and isinstance(served.kept[fused], tuple)}
    dynamic = driver.node(fused)
    driver.set_node(fused, Kernel(dynamic.function, dynamic.grid, dynamic.block, 1024, dynamic.values))
    said["by_kernel"] = driver.node(fused).function == dynamic.function
    copy = Memcpy(arena.base + 4, arena.base + 8, 16, 3, 2, 64, 4, 32, 8)
    said["copy"] = driver.node(driver.add(graph, copy)) == copy
    executable = driver.instantiate(graph)
    try:
        driver.update(executable, step(driver, kernels, arena.base, 8))
    except UpdateRefused as error:
        said["update"] = error.result
    double.add_other(graph, "host function")
    for name, call in (
        ("unsupported", lambda: walk(driver, graph)),
        ("dead", lambda: driver.launch(executable + 8, 0)),
        ("image", lambda: driver.load(b"\x7fELF\2\1" + bytes(122))),
        ("absent", lambda: driver._call("cuEventQuery", 0)),
    ):
        try:
            call()
        except (DriverError, Unsupported, NoDriver) as error:
            said[name] = [type(error).__name__, str(error)]
    return said | {"float": struct.unpack("<f", before_value(before))[0]}


def before_value(walked):
    """The factor of axpy, from the middle of a word."""
    spot = next(s for s in walked.spots if "axpy" in s.label)
    return struct.pack("<Q", walked.row[spot.stop - 1])[:4]


if __name__ == "__main__":
    main(sys.argv[1])
