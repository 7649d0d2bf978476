"""A decode step in miniature over the driver double, captured as a library would, at any base, size and rank.

    h = 0; h = table[ids]; t = h w; s += t / 2; child graph: logits = t, logits += s; of a rank: logits += rank, comm

From batch 4 on another kernel makes the product, from batch 8 on there is one node more.
"""

import itertools
import struct
from dataclasses import replace

from double_code import image
from driver_double import Double

from workbench.foundry import cuda
from workbench.foundry.archive import write
from workbench.foundry.cuda_assemble import Assembly, sealed
from workbench.foundry.cuda_binaries import Image
from workbench.foundry.cuda_graph import Probe
from workbench.foundry.cuda_memory import DeviceArena, outcome, pattern, probing
from workbench.foundry.cuda_walk import DISTANCE, Declared
from workbench.foundry.driver import Child, Edge, Empty, Kernel, Memcpy, Memset
from workbench.foundry.graph import Tensor

WIDTH, ROWS, SLOTS = 8, 16, 16
BASE, SIZE = 0x600000000000, 2 << 20
TENSORS = (
    Tensor("table", "weight", "float32", (ROWS, WIDTH), 0),
    Tensor("w", "weight", "float32", (WIDTH, WIDTH), 4096),
    Tensor("s", "state", "float32", (SLOTS, WIDTH), 8192),
    Tensor("ids", "input", "int64", (SLOTS,), 12288),
)
AT = {t.name: t.offset for t in TENSORS} | {"h": 16384, "t": 20480, "logits": 24576}
AXPY = [[0, 8], [8, 8], [16, 4], [20, 4]]
LIBRARY = image({
    "small": ("product", [[0, 32], [32, 8]]), "large": ("product", [[0, 32], [32, 8]]), "axpy": ("axpy", AXPY),
})  # fmt: skip
TRITON = image({"fused": ("gather", [[0, 8], [8, 8], [16, 8], [24, 4], [28, 4]])}, "triton")
COMM = image({"of_rank": ("of_rank", [[0, 8], [8, 4], [12, 4], [16, 8]])})
DECLARED = {"rank": Declared(0, 1), "comm": Declared(0x7F0000000041, 0x7F0000000042, 8, handle=True)}
PLAIN = {"rank": Declared(0, 1)}


def code(driver):
    """The step's kernels by symbol, as their libraries load them; and the images that were seen."""
    found, seen = {}, []
    for raw in (LIBRARY, TRITON, COMM):
        library = driver.load(raw)
        found |= {s: driver.function(library, s) for s in driver.symbols(raw)}
        if raw == LIBRARY:  # as libraries do before they launch with more than the default
            driver.set_setting(found["large"], "dynamic_shared", 64 << 10)
            driver.set_setting(found["large"], "shared_carveout", 60)
        seen.append(Image(raw, found["fused"] if raw == TRITON else 0, "triton" if raw == TRITON else "cupti"))
    return found, seen


def q(*words):
    return [struct.pack("<Q", w) for w in words]


def i4(*numbers):
    return [struct.pack("<i", n) for n in numbers]


def step(driver, kernels, base, n, rank=None, at=None):
    """The graph of a batch of n, over an arena at `base`. rank: (rank, communicator). at: other places, by name."""
    at = {name: base + offset for name, offset in AT.items()} | (at or {})
    g, wide = driver.graph(), n >= 4

    def run(symbol, *values, block=(32, 1, 1), grid=(n, 1, 1), shared=0):
        return driver.add(g, Kernel(kernels[symbol], grid, block, shared, tuple(values)))

    def axpy(dst, x, a):
        return *q(at[dst], at[x]), struct.pack("<f", a), *i4(n * WIDTH)

    struct_ = struct.pack("<QQQii", at["w"], 7, at["h"], WIDTH, n)
    nodes = [
        driver.add(g, Memset(at["h"], 0, 0, 4, n * WIDTH, 1)),
        run("fused", *q(at["h"], at["table"], at["ids"]), *i4(WIDTH, n)),
        run(
            "large" if wide else "small",
            struct_,
            *q(at["t"]),
            block=(64 if wide else 32, 1, 1),
            shared=(60 << 10) * wide,
        ),
        run("axpy", *axpy("s", "t", 0.5)),
    ]
    driver.set_attributes(nodes[2], (("cluster", (1, 1, 1)),))
    inner = driver.graph()
    copy = driver.add(inner, Memcpy(at["logits"], at["t"], 4 * n * WIDTH))
    add = driver.add(inner, Kernel(kernels["axpy"], (1, 1, 1), (32, 1, 1), 0, axpy("logits", "s", 1.0)))
    driver.connect(inner, [Edge(copy, add)])
    nodes.append(driver.add(g, Child(inner)))
    driver.destroy_graph(inner)
    if n >= 8:
        nodes += [driver.add(g, Empty()), run("axpy", *axpy("logits", "h", 0.25))]
    if rank is not None:
        nodes.append(run("of_rank", *q(at["logits"]), *i4(n * WIDTH, rank[0]), *q(rank[1])))
    edges = [Edge(a, b) for a, b in itertools.pairwise(nodes)]
    edges[2] = replace(edges[2], from_port=1, type=1)  # programmatic, as between two kernels
    driver.connect(g, edges)
    return g


def fill(arena):
    """Weights, as a model has them."""
    arena.write(AT["table"], struct.pack(f"<{ROWS * WIDTH}f", *(i % 11 - 5.3 for i in range(ROWS * WIDTH))))
    arena.write(AT["w"], struct.pack(f"<{WIDTH * WIDTH}f", *(0.37 * (i % 7) - 1.1 for i in range(WIDTH * WIDTH))))


def probe(n):
    ids = struct.pack(f"<{n}q", *((5 * i + n) % ROWS for i in range(n)))
    return Probe((("s", 4 * n * WIDTH),), (("ids", len(ids)),), ids, "", (("s", 4 * SLOTS * WIDTH),))


def outputs(n):
    return (Tensor("logits", "output", "float32", (n, WIDTH), AT["logits"]),)


def captured(sizes=(1, 2, 4, 8), declared=None, driver=None, fingerprint=None):
    """(capture, what the captured graphs themselves left, by size): the whole way but torch."""
    driver = driver or Double()
    kernels, images = code(driver)
    here, there = DeviceArena(driver, BASE, SIZE), DeviceArena(driver, BASE + DISTANCE, SIZE)
    made = Assembly(driver, here.base, there.base, SIZE)
    first = [d.first for d in DECLARED.values()] if declared else None
    second = [d.second if name in declared else d.first for name, d in DECLARED.items()] if declared else None
    graphs = {}
    for n in sizes:
        graphs[n] = step(driver, kernels, here.base, n, first)
        again = step(driver, kernels, here.base, n, second) if declared else 0
        made.add(
            n, graphs[n], step(driver, kernels, there.base, n, first), outputs=outputs(n), probe=probe(n),
            second_rank=again, declared=declared,
        )  # fmt: skip
    done = made.finish(images, fingerprint=fingerprint or driver.about(), model={"name": "small"}, tensors=TENSORS)
    fill(here)
    seals, left = {}, {}
    for n, graph in graphs.items():
        executable = driver.instantiate(graph)
        with probing(here, done, done.graphs[n]):
            driver.launch(executable, 0)
            seals[n] = outcome(here, {t.name: t for t in TENSORS}, done.graphs[n])
            left[n] = here.read(AT["logits"], 4 * n * WIDTH)
    done = sealed(done, seals)
    return done, left


def stored(path, done):
    """Written to a file."""
    write(path, done.sections())
    return path


def rebuilt(path, double=None, **options):
    """Its ladder on this double, or on a fresh one. options: of cuda.load."""
    double = double or Double()
    return cuda.load(path, double, **{"here": double.about(), "weights": fill} | options)


def run(ladder, n):
    """Logits of the probe's step, from the KV of the probe."""
    ladder.write("s", pattern("float32", 4 * n * WIDTH + 8)[8:])
    ladder.write("ids", probe(n).raw)
    ladder.replay(n)
    return ladder.read("logits", n)
