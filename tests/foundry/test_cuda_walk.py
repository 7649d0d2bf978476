"""Addresses found by capturing twice, values of a rank by capturing as two, kernels by binaries; all else by name."""

import struct
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.foundry.archive import Archive, Refused, encode
from workbench.foundry.cuda_assemble import Assembly, scrambled, sealed
from workbench.foundry.cuda_binaries import Image, elf_kernels, identify
from workbench.foundry.cuda_decode import decode
from workbench.foundry.cuda_graph import Probe
from workbench.foundry.cuda_ladder import Ladder
from workbench.foundry.cuda_memory import DeviceArena, outcome
from workbench.foundry.cuda_walk import DISTANCE, Declared, differential, explain, ranks, walk
from workbench.foundry.driver import Child, Edge, Empty, Kernel, Memcpy, Memset, Unsupported
from workbench.foundry.graph import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from cuda_small import BASE, DECLARED, PLAIN, SIZE, code, i4, step
from double_code import image
from driver_double import Double

LAYOUT = [[0, 8], [8, 8], [16, 4], [20, 4], [24, 16]]
WIDE = image({"k": ("axpy", LAYOUT)})
LOOSE = image({"k": ("axpy_of_four", [[0, 8], [8, 8], [16, 4], [20, 4], [24, 8]])})
ELSEWHERE = 0x640000000000


@pytest.fixture
def driver():
    double = Double()
    for base in (BASE, BASE + DISTANCE):
        double.reserve(SIZE, base)
        double.map(base, SIZE, double.create(SIZE))
    return double


def q(*words):
    return [struct.pack("<Q", w % 2**64) for w in words]


def one(driver, function, first, second=0, third=0, fourth=0, wide=(0, 0), grid=(1, 1, 1)):
    """A graph of one kernel with these parameters."""
    g = driver.graph()
    small = [struct.pack("<I", v % 2**32) for v in (third, fourth)]
    values = (*q(first, second), *small, b"".join(q(*wide)))
    driver.add(g, Kernel(function, grid, (32, 1, 1), 0, values))
    return walk(driver, g)


def found(driver, make):
    """Slots of addresses; `make(base)` gives the arguments of `one`."""
    function = driver.function(driver.load(WIDE), "k")
    here, there = (one(driver, function, **make(base)) for base in (BASE, BASE + DISTANCE))
    return differential(driver, here, there, (BASE, SIZE), (BASE + DISTANCE, SIZE))


def test_addresses_are_found_wherever_they_stand(driver):
    assert found(driver, lambda base: {"first": base + 64, "second": 5, "wide": (7, base)}) == (8, 12)
    assert found(driver, lambda base: {"first": base, "second": base + SIZE}) == (8, 9)  # one past the end may be
    assert found(driver, lambda base: {"first": 1 << 40, "second": 2**64 - 1, "third": 3}) == ()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda base: {"first": base + (base > BASE) * 8}, r"node 0 \(kernel k\), parameter 0, offset 0: .*no address"),
        (lambda base: {"first": base, "second": base >> 4}, "parameter 1, offset 8"),
        (lambda base: {"first": base, "third": base}, "parameter 2 and 3, offset 16"),  # the low half of an address
        (lambda base: {"first": base, "fourth": base >> 32}, "parameter 2 and 3, offset 16"),  # the high half
        (lambda base: {"first": base, "wide": (0, base >> 32)}, "parameter 4, offset 32"),
        (lambda base: {"first": base + SIZE + 8}, "no address of the arena"),
        (lambda base: {"first": base, "second": BASE + 8}, "offset 8: .* did not move"),  # left over from a capture
        (lambda base: {"first": base, "second": BASE + DISTANCE}, "lies in an arena and did not move"),
        (lambda base: {"first": base, "grid": (1 + (base > BASE), 1, 1)}, "grid x: 0x1 became 0x2"),
    ],
)
def test_what_is_neither_constant_nor_address_is_refused_by_name(driver, make, said):
    with pytest.raises(Unsupported, match=said):
        found(driver, make)


def test_memory_outside_of_the_arena_is_refused(driver):
    """It is the same in both captures, so that only its owner gives it away."""
    outside = driver.malloc(4096)
    with pytest.raises(Unsupported, match=r"offset 8: .*memory outside of the arena .4096 bytes"):
        found(driver, lambda base: {"first": base, "second": outside + 100})
    assert found(driver, lambda base: {"first": base, "second": outside + 4096}) == (8,)  # just a number


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nodes", "have 2 and 1 nodes"),
        ("kind", "node 1 is empty in one capture and memset in the other"),
        ("edges", r"different edges: \(0, 1\)"),
        ("attributes", "node 0 is kernel cluster=2,1,1 in one capture and kernel in the other"),
        ("function", r"node 0 \(kernel a\) is node 0 \(kernel b\)"),
    ],
)
def test_captures_that_are_not_alike_are_refused(driver, what, said):
    library = driver.load(image({"a": ("axpy", [[0, 8]]), "b": ("axpy", [[0, 8]])}))
    kernels = [driver.function(library, name) for name in "ab"]

    def make(changed):
        g = driver.graph()
        kernel = kernels[changed == "function"]
        nodes = [driver.add(g, Kernel(kernel, (2, 1, 1), (32, 1, 1), 0, tuple(q(BASE))))]
        if changed != "nodes":
            nodes.append(driver.add(g, Memset(BASE, 0, 0, 4, 8, 1) if changed == "kind" else Empty()))
            if changed != "edges":
                driver.connect(g, [Edge(*nodes)])
        if changed == "" and what == "attributes":
            driver.set_attributes(nodes[0], (("cluster", (2, 1, 1)),))
        return walk(driver, g)

    with pytest.raises(Unsupported, match=said):
        differential(driver, make(""), make(what), (BASE, SIZE), (BASE + DISTANCE, SIZE))


def test_what_no_archive_carries_is_named(driver):
    kernels, _ = code(driver)
    for spoil, said in (
        (lambda g: driver.add_other(g, "host function"), "node 6: a host function node cannot be carried"),
        (lambda g: driver._live[driver.nodes(g)[1]].attributes.update(device_updatable=(1,)), "node 1: .*device_upd"),
    ):
        g = step(driver, kernels, BASE, 2)
        driver.add(g, Empty())
        spoil(g)
        with pytest.raises(Unsupported, match=said):
            walk(driver, g)


def test_a_walk_does_not_depend_on_the_order_of_nodes(driver):
    """Nodes come in an order that the edges allow, whatever order they were added in."""
    g = driver.graph()
    third = driver.add(g, Empty())
    first, second = (driver.add(g, Memcpy(BASE, BASE + 64 * i, 4)) for i in (1, 2))
    driver.connect(g, [Edge(first, second), Edge(second, third)])
    walked = walk(driver, g)
    assert [n.kind for n in walked.template.nodes] == ["memcpy", "memcpy", "empty"]
    assert walked.template.edges == ((0, 1, 0, 0, 0), (1, 2, 0, 0, 0))
    assert walked.handles == (first, second, third)
    driver.connect(g, [Edge(third, first)])
    with pytest.raises(Unsupported, match="circle"):
        walk(driver, g)


def test_ports_and_attributes_are_in_the_key(driver):
    kernels, _ = code(driver)
    g, other = (step(driver, kernels, BASE, 2) for _ in range(2))
    assert walk(driver, g).template.key == walk(driver, other).template.key
    assert (2, 3, 1, 0, 1) in walk(driver, g).template.edges
    driver.set_attributes(driver.nodes(other)[1], (("priority", (-1,)),))
    assert walk(driver, g).template.key != walk(driver, other).template.key
    edges = walk(driver, g).template.edges
    plain = replace(walk(driver, g).template, edges=tuple((*e[:2], 0, 0, 0) for e in edges))
    assert plain.key != walk(driver, g).template.key


def test_child_graphs_are_gone_into(driver):
    kernels, _ = code(driver)
    here, there = (walk(driver, step(driver, kernels, base, 2)) for base in (BASE, BASE + DISTANCE))
    assert [s.path for s in here.spots][-2:] == [(4, 0), (4, 1)]
    inside = [
        s for s in differential(driver, here, there, (BASE, SIZE), (BASE + DISTANCE, SIZE)) if s >= here.spots[-2].start
    ]
    assert len(inside) == 4
    assert isinstance(driver.node(driver.nodes(step(driver, kernels, BASE, 1))[4]), Child)


def as_ranks(driver, first, second):
    kernels, _ = code(driver)
    return (walk(driver, step(driver, kernels, BASE, 2, values)) for values in (first, second))


def test_values_of_a_rank(driver):
    first, second = as_ranks(driver, (0, DECLARED["comm"].first), (1, DECLARED["comm"].second))
    found, patches = ranks(first, second, DECLARED)
    assert [(p.name, p.byte, p.width) for p in patches] == [("rank", 4, 4), ("comm", 0, 8)]
    assert found["comm"].handle
    for declared, said in (
        ({"rank": PLAIN["rank"]}, "0x7f0000000041 became 0x7f0000000042 with the rank and is no declared value"),
        (DECLARED | {"world": Declared(8, 9)}, "no parameter holds the rank's 'world'"),
    ):
        with pytest.raises(Unsupported, match=said):
            ranks(first, second, declared)
    for declared, said in (
        (DECLARED | {"twin": Declared(0, 1)}, "'twin' and 'rank' have the same values"),
        ({"rank": Declared(1, 1)}, "is 1 in both captures"),
        ({"rank": Declared(0, 1 << 32)}, "does not fit 4 bytes"),
    ):
        with pytest.raises(ValueError, match=said):
            ranks(first, second, declared)


def test_binaries(driver):
    """By handle where it is known, else by name and traits; never a guess."""
    kernels, images = code(driver)
    layouts = {h: driver.layout(h) for h in (kernels["small"], kernels["fused"])}
    codes, used = identify(driver, layouts, images)
    assert [c.symbol for c in codes.values()] == ["small", "fused"]
    assert set(used.values()) == {images[0].raw, images[1].raw}
    same = Image(image({"small": ("product", [[0, 32], [32, 8]])}, "another build"))
    with pytest.raises(Unsupported, match="kernel small: 2 different binaries have it"):
        identify(driver, layouts, [*images, same])
    told = [replace(images[0], handle=driver.module(kernels["small"])), *images[1:], same]
    assert identify(driver, layouts, told)[1] == used
    other = Image(image({"small": ("product", [[0, 32], [32, 4]])}))
    assert identify(driver, layouts, [*images, other])[1] == used
    with pytest.raises(Unsupported, match="kernel small: 1 binaries have the name, none with the parameters"):
        identify(driver, layouts, [*images[1:], other])
    with pytest.raises(Unsupported, match="kernel small: no binary with it was seen"):
        identify(driver, layouts, images[1:])
    with pytest.raises(ValueError, match="ELF"):
        elf_kernels(b"text")


def test_room_that_is_never_set(driver):
    """Bytes that change and do not matter can be carried; bytes that matter show when they are scrambled."""
    function = driver.function(driver.load(LOOSE), "k")
    arenas = DeviceArena(driver, ELSEWHERE, SIZE), DeviceArena(driver, ELSEWHERE + DISTANCE, SIZE)

    def taken(make, test=True):
        graphs = []
        for i, arena in enumerate(arenas):
            g = driver.graph()
            driver.add(g, Kernel(function, (1, 1, 1), (32, 1, 1), 0, make(i, arena.base)))
            graphs.append(g)
        made = Assembly(driver, arenas[0].base, arenas[1].base, SIZE)
        output = Tensor("out", "output", "float32", (8,), 64)
        made.add(1, *graphs, outputs=(output,), probe=Probe((), (), b"", ""), test=test)
        done = made.finish([Image(LOOSE)], fingerprint={}, model={}, tensors=())
        assert decode(Archive(encode(done.sections()))) == done
        arenas[0].write(0, struct.pack("<32f", *range(32)))
        driver.launch(driver.instantiate(graphs[0]), 0)
        return sealed(done, {1: outcome(arenas[0], {}, done.graphs[1])})

    def left(done):
        arenas[0].write(0, struct.pack("<32f", *range(32)))
        ladder = Ladder(done, driver, arenas[0])
        try:
            ladder.verify(1)
        except Refused as error:
            return str(error)
        return ""

    def values(i, base, garbage, factor=0.5):
        return (*q(base + 64, base), struct.pack("<f", factor), *i4(8), struct.pack("<iI", 3, garbage))

    def loose(i, base):
        return values(i, base, 0x0BAD0000 + i)

    with pytest.raises(Unsupported, match="parameter 4, offset 24"):
        taken(loose, test=False)
    done = taken(loose)
    assert done.graphs[1].ignored == ((11, 1 << 4),)  # one byte of the garbage, the number beside it untouched
    assert done.graphs[1].row[11] == 0x0BAD0000 << 32 | 3
    assert [left(scrambled(done, word)) for word in (0, 2**64 - 1)] == ["", ""]
    wide = driver.function(driver.load(WIDE), "k")
    first, second = (one(driver, wide, BASE, grid=(n, 1, 1)) for n in (1, 2))
    with pytest.raises(Unsupported, match="grid x"):  # a launch always matters
        explain(driver, first, second, (BASE, SIZE), (BASE + DISTANCE, SIZE))
    matters = taken(lambda i, base: values(i, base, 7, factor=0.5 + i))
    assert "does not leave the bits" in left(scrambled(matters, 2**64 - 1))
