"""Graphs rebuilt over the driver double leave the captured bits, anywhere; and what must be refused."""

import random
import struct
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from workbench.foundry import cuda
from workbench.foundry.archive import Archive, Refused, digest, encode
from workbench.foundry.cuda_assemble import Assembly
from workbench.foundry.cuda_binaries import Image
from workbench.foundry.cuda_decode import decode
from workbench.foundry.cuda_graph import Probe, Rank, Template
from workbench.foundry.cuda_ladder import Ladder
from workbench.foundry.cuda_memory import DeviceArena, load_weights, store_weights
from workbench.foundry.cuda_walk import DISTANCE
from workbench.foundry.driver import Edge, Empty, Kernel, Memcpy, Memset

sys.path.insert(0, str(Path(__file__).parent))
from cuda_small import (
    AT,
    AXPY,
    BASE,
    DECLARED,
    LIBRARY,
    PLAIN,
    ROWS,
    SIZE,
    SLOTS,
    WIDTH,
    captured,
    fill,
    i4,
    q,
    rebuilt,
    run,
    stored,
)  # fmt: skip
from double_code import image
from driver_double import Double

ELSEWHERE = 0x610000000000


@pytest.fixture(scope="module")
def small():
    return captured()


@pytest.fixture(scope="module")
def path(small, tmp_path_factory):
    return stored(tmp_path_factory.mktemp("cuda") / "small.foundry", small[0])


loaded = partial(rebuilt, verify="all")


def refused(done, tmp_path, **options):
    """Why an archive was refused, "" when it was not."""
    double = options.pop("double", None) or Double()
    try:
        loaded(stored(tmp_path / "x.foundry", done), double, **options).close()
    except Refused as error:
        return f"{error.cause}: {error}"
    return ""


@pytest.mark.parametrize("way", ["nodes", "graph"])
@pytest.mark.parametrize("base", [None, ELSEWHERE])
def test_every_size_leaves_the_captured_bits(small, path, way, base):
    double = Double(seed=7)
    with loaded(path, double, way=way, base=base) as ladder:
        assert ladder.arena.base == (base or BASE)
        for n in (1, 8, 2, 4, 1, 1, 8):
            assert run(ladder, n) == small[1][n]
        assert ladder.notes == []
        assert ladder.counts["built"] == len(small[0].topology) == 2
        assert ladder.counts["verified"] == 4
    assert double.left() == {}
    assert len(set(small[1].values())) == 4


def test_elsewhere_when_the_place_is_taken(small, path):
    double = Double()
    double.reserve(SIZE, BASE)
    with loaded(path, double) as ladder:
        assert ladder.arena.base != BASE
        assert run(ladder, 4) == small[1][4]


def random_graph(driver, function, base, draw):
    """Up to 14 nodes on 16 buffers of 256 bytes, at random, in a chain with more edges across it."""
    g, at = driver.graph(), lambda: base + 256 * draw.randrange(16)
    nodes = []
    for _ in range(draw.randrange(2, 15)):
        n = draw.randrange(1, 33)
        axpy = (*q(at(), at()), struct.pack("<f", draw.uniform(-1, 1)), *i4(n))
        nodes.append(driver.add(g, draw.choice((
            Kernel(function, (n, 1, 1), (32, 1, 1), 0, axpy), Memcpy(at(), at(), 4 * n), Empty(),
            Memset(at(), 64, draw.randrange(4), draw.choice((1, 2, 4)), draw.randrange(1, 9), draw.randrange(1, 4)),
        ))))  # fmt: skip
    pairs = {(i, i + 1) for i in range(len(nodes) - 1)}
    pairs |= {tuple(sorted(draw.sample(range(len(nodes)), 2))) for _ in nodes}
    driver.connect(g, [Edge(nodes[a], nodes[b]) for a, b in sorted(pairs)])
    return g


def test_random_graphs_leave_the_same_bytes_elsewhere():
    """The whole arena is compared: what a graph leaves in it holds no address."""
    start = bytes(random.Random(0).choices(range(64), k=4096))
    for seed in range(40):
        driver = Double(seed)
        function = driver.function(driver.load(LIBRARY), "axpy")
        here, there, third = (DeviceArena(driver, b, SIZE) for b in (BASE, BASE + DISTANCE, ELSEWHERE))
        graphs = [random_graph(driver, function, a.base, random.Random(seed)) for a in (here, there)]
        made = Assembly(driver, here.base, there.base, SIZE)
        made.add(1, *graphs, outputs=(), probe=Probe((), (), b"", ""))
        done = made.finish([Image(LIBRARY)], fingerprint={}, model={}, tensors=())
        assert decode(Archive(encode(done.sections()))) == done
        left = []
        for arena in (here, third):
            arena.write(0, start)
            if arena is here:
                driver.launch(driver.instantiate(graphs[0]), 0)
            else:
                Ladder(done, driver, arena, check_first_use=False).replay(1)
            left.append(arena.read(0, 8192))
        assert left[0] == left[1], seed
        assert left[0][:4096] != start


@pytest.mark.parametrize("n", [4, 8])
def test_an_address_that_stays_behind_is_refused(small, tmp_path, n):
    """Negative control: each address in turn is not moved with the others."""
    graph = small[0].graphs[n]
    assert len(graph.pointers) == {4: 13, 8: 15}[n]
    for slot in graph.pointers:
        left = replace(graph, pointers=tuple(s for s in graph.pointers if s != slot))
        done = replace(small[0], graphs={**small[0].graphs, n: left})
        assert refused(done, tmp_path) == ""  # at the captured base it is where it was
        assert refused(done, tmp_path, base=ELSEWHERE).split(":")[0] in ("mismatch", "foreign"), slot  # not even built


def test_an_address_moved_by_the_wrong_amount_is_refused(small, tmp_path):
    """Negative control. Only the fill may go wrong unseen: its bytes are written over by the next node."""
    graph, unseen = small[0].graphs[4], []
    for slot in graph.pointers:
        row = list(graph.row)
        row[slot] += 4 * WIDTH
        done = replace(
            small[0], graphs={**small[0].graphs, 4: replace(graph, words=struct.pack(f"<{len(row)}Q", *row))}
        )
        unseen += [slot] if not refused(done, tmp_path, base=ELSEWHERE) else []
    assert unseen == [0]


def test_a_missing_edge_shows(small, tmp_path):
    """Negative control: without any one edge some order of nodes leaves other bits; with all of them none does."""
    key = small[0].graphs[4].template
    whole = small[0].templates[key]
    assert not any(refused(small[0], tmp_path, double=Double(seed)) for seed in range(20))
    for i in range(1, len(whole.edges)):  # the first only orders the fill
        cut = Template(whole.nodes, whole.edges[:i] + whole.edges[i + 1 :])
        graphs = {
            n: replace(g, template=cut.key if g.template == key else g.template) for n, g in small[0].graphs.items()
        }
        templates = {k: t for k, t in small[0].templates.items() if k != key} | {cut.key: cut}
        done = replace(small[0], templates=templates, graphs=graphs)
        assert any("mismatch" in refused(done, tmp_path, double=Double(seed)) for seed in range(20)), whole.edges[i]


def test_another_device_is_refused_and_captured_again(small, path, tmp_path):
    double = Double(name="Another GPU")
    with pytest.raises(Refused, match="device was 'Double of a GPU' and is 'Another GPU'") as caught:
        loaded(path, double)
    assert caught.value.cause == "foreign"
    mine = tmp_path / "again.foundry"
    mine.write_bytes(path.read_bytes())
    again, left = captured(fingerprint=double.about())
    ladder, why = cuda.load_or_capture(
        mine, double, lambda: stored(mine, again), here=double.about(), weights=fill, verify="all"
    )
    assert why.startswith("foreign")
    assert run(ladder, 2) == left[2]
    ladder.close()


def test_a_damaged_archive_is_captured_again(small, path, tmp_path):
    mine, raw = tmp_path / "damaged.foundry", bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    for content, cause in ((bytes(raw), "corrupt"), (bytes(raw[:-70]), "truncated"), (None, "missing")):
        mine.unlink(missing_ok=True)
        if content is not None:
            mine.write_bytes(content)
        double = Double()
        ladder, why = cuda.load_or_capture(
            mine, double, lambda: stored(mine, small[0]), here=double.about(), weights=fill, verify="all"
        )
        assert why.startswith(f"{cause}: ")
        assert run(ladder, 8) == small[1][8]
        assert cuda.load_or_capture(mine, Double(), pytest.fail, here=double.about(), weights=fill)[1] == ""


def test_fingerprint_and_status():
    found = cuda.fingerprint(Double())
    assert found["torch"]
    assert found["driver"] == 13000
    said = cuda.status()
    assert said["never_ran"] == list(cuda.NEVER_RAN)
    assert set(said) == {"load", "capture", "never_ran"}


def with_binary(done, symbol, raw):
    """The archive with another binary in the place of the one that has `symbol`."""
    old = next(f.binary for f in done.functions if f.symbol == symbol)
    new = digest(raw).hex()
    functions = tuple(replace(f, binary=new) if f.binary == old else f for f in done.functions)
    return replace(
        done, functions=functions, binaries={k: v for k, v in done.binaries.items() if k != old} | {new: raw}
    )


def test_other_code_is_refused(small, tmp_path):
    """Negative controls: parameters that do not fit, a kernel that is gone, one that does something else."""
    done = small[0]
    shorter = replace(done, functions=tuple(replace(f, layout=f.layout[:-1]) for f in done.functions))
    assert "names no function" in refused(shorter, tmp_path)
    wider = image({"fused": ("gather", [[0, 8], [8, 8], [16, 8], [24, 8]])})
    assert "takes other parameters" in refused(with_binary(done, "fused", wider), tmp_path)
    assert "CUDA_ERROR_NOT_FOUND" in refused(with_binary(done, "fused", image({"lost": ("gather", [])})), tmp_path)
    assert "CUDA_ERROR_INVALID_IMAGE" in refused(with_binary(done, "fused", b"no binary"), tmp_path)
    product = [[0, 32], [32, 8]]
    same = {"small": ("product", product), "large": ("product", product)}
    assert refused(with_binary(done, "axpy", image(same | {"axpy": ("axpy", AXPY)}, "rebuilt")), tmp_path) == ""
    assert "does not leave the bits" in refused(
        with_binary(done, "axpy", image(same | {"axpy": ("axmy", AXPY)})), tmp_path
    )


def test_when_it_is_verified(path, monkeypatch):
    wrong = lambda arena: arena.write(AT["table"], bytes(ROWS * WIDTH * 4))  # noqa: E731
    for verify, seen in (("all", True), ("templates", True), ("first use", False), ("never", False)):
        if seen:
            with pytest.raises(Refused, match="does not leave the bits"):
                loaded(path, verify=verify, weights=wrong)
            continue
        with loaded(path, verify=verify, weights=wrong) as ladder:
            if verify == "first use":
                with pytest.raises(Refused, match="batch 2 does not leave"):
                    ladder.replay(2)
            else:
                ladder.replay(2)
    with loaded(path, verify="templates") as ladder:
        assert ladder.verified == {1, 8}


def test_verifying_puts_back_what_it_overwrote(path):
    with loaded(path, verify="first use") as ladder:
        ladder.write("s", b"\1" * (SLOTS * WIDTH * 4))
        ladder.write("ids", b"\2\0\0\0\0\0\0\0" * SLOTS)
        before = ladder.arena.read(AT["s"], AT["h"] - AT["s"])
        ladder.verify(4)
        assert ladder.arena.read(AT["s"], AT["h"] - AT["s"]) == before


def test_one_capture_serves_several_ranks(tmp_path):
    """Values of a rank are patched where they were found; the bits are those of a capture as that rank."""
    done, left = captured(declared=PLAIN)
    assert {p.width for p in done.graphs[2].patches} == {4}
    path = stored(tmp_path / "ranks.foundry", done)
    seen = set()
    for rank in range(4):
        with loaded(path, rank={"rank": rank}, base=ELSEWHERE) as ladder:
            got = struct.unpack(f"<{2 * WIDTH}f", run(ladder, 2))
        first = struct.unpack(f"<{2 * WIDTH}f", left[2])
        assert got == pytest.approx([v + rank for v in first])
        seen.add(got)
    assert len(seen) == 4
    with loaded(path) as ladder:
        assert run(ladder, 2) == left[2]
    for given, said in (({}, "rank names"), ({"rank": 1 << 32}, "does not fit 4 bytes"), ({"rang": 1}, "rank names")):
        with pytest.raises(ValueError, match=said):
            loaded(path, rank=given)


def test_a_handle_of_another_process_is_not_verified(tmp_path):
    done, left = captured(declared=DECLARED)
    path = stored(tmp_path / "comm.foundry", done)
    assert done.ranks["comm"] == Rank(8, DECLARED["comm"].first, handle=True)
    with pytest.raises(ValueError, match=r"needs rank=.'comm'"):
        loaded(path)
    own = {"rank": 0, "comm": 0x7F00000000A1}
    with pytest.raises(Refused, match="needs comm of this process"):
        loaded(path, rank=own)
    with loaded(path, rank=own, verify="never") as ladder:
        moved = struct.unpack(f"<{2 * WIDTH}f", run(ladder, 2))
    assert moved == pytest.approx([v + (0xA1 - 0x41) / 256 for v in struct.unpack(f"<{2 * WIDTH}f", left[2])])
    with loaded(path, rank={"rank": 0, "comm": DECLARED["comm"].first}) as ladder:  # the capturing process itself
        assert run(ladder, 2) == left[2]


def test_weights_from_their_file(small, tmp_path):
    double = Double()
    arena = DeviceArena(double, BASE, SIZE)
    fill(arena)
    about = store_weights(arena, 8192, tmp_path)
    path = stored(tmp_path / "w.foundry", replace(small[0], weights=about))
    with loaded(path, weights=None) as ladder:
        assert run(ladder, 4) == small[1][4]
    file = tmp_path / about["file"]
    for content, cause in (
        (file.read_bytes()[:-1], "truncated"), (file.read_bytes() + b"x", "weights"), (bytes(8192), "weights"),
    ):  # fmt: skip
        file.write_bytes(content)
        with pytest.raises(Refused) as caught:
            load_weights(arena, about, tmp_path)
        assert caught.value.cause == cause
    file.unlink()
    assert refused(replace(small[0], weights=about), tmp_path, weights=None).startswith("weights")


def test_no_memory_and_no_such_size(small, path):
    with pytest.raises(Refused, match="not to be had") as caught:
        loaded(path, Double(memory=1 << 20))
    assert caught.value.cause == "memory"
    with pytest.raises(ValueError, match="no graph of batch 3"), loaded(path) as ladder:
        ladder.replay(3)
    with pytest.raises(ValueError, match="no graph of batch 5"):
        loaded(path, hot=[5])
    with pytest.raises(Refused, match="its id is"):
        loaded(path, expect="00" * 16)


def test_what_a_dead_context_cannot_give_back_is_told(small, tmp_path):
    graph = small[0].graphs[4]
    done = replace(small[0], graphs={4: replace(graph, pointers=graph.pointers[1:])})
    double = Double()
    ladder = Ladder(done, double, DeviceArena(double, ELSEWHERE, SIZE))
    with pytest.raises(Refused, match=r"CUDA_ERROR_(INVALID_VALUE|ILLEGAL_ADDRESS)"):
        ladder.verify(4)
    ladder.close()
