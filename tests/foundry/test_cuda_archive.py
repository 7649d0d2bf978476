"""The archive of backend "cuda": read back equal or refused, explored, and kept apart from the CPU's."""

import random
import struct
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from workbench.foundry import archive, cuda, cuda_explore, driver_cuda, explore
from workbench.foundry.archive import Archive, Refused, canonical
from workbench.foundry.cuda_decode import decode
from workbench.foundry.cuda_graph import is_cuda, moved, pieces
from workbench.foundry.driver import Unsupported, pack, plain, unpack

sys.path.insert(0, str(Path(__file__).parent))
from cuda_small import BASE, PLAIN, SIZE, captured, fill, stored
from driver_double import Double
from small import small as cpu
from test_archive import mutated

MUTATIONS = 2_000


@pytest.fixture(scope="module")
def done():
    return captured(declared=PLAIN)[0]


@pytest.fixture(scope="module")
def raw(done):
    return archive.encode(done.sections())


def test_what_is_written_is_read(done, raw):
    read = Archive(raw)
    assert decode(read) == done
    assert is_cuda(read)
    assert not is_cuda(Archive(archive.encode(cpu().sections())))


def test_no_mutation_is_believed(done, raw):
    draw, refused = random.Random(3), 0
    for _ in range(MUTATIONS):
        try:
            assert decode(Archive(mutated(raw, draw))) == done
        except Refused:
            refused += 1
    assert refused > 0.9 * MUTATIONS


def test_the_cpus_archive_is_of_another_backend():
    with pytest.raises(Refused, match="captured on backend cpu") as caught:
        decode(Archive(archive.encode(cpu().sections())))
    assert caught.value.cause == "foreign"


def changed(done, *path, value):
    """Sections with one value of the manifest changed, checksums right."""
    sections = done.sections()
    found = archive.parse_json(sections["manifest"], "")
    at = found
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return sections | {"manifest": canonical(found)}


def nonsense(done):
    graph = done.graphs[2]
    row, key = list(graph.row), graph.template
    words = lambda r: {"slots/000002": struct.pack(f"<{len(r)}Q", *r)}  # noqa: E731
    put = lambda i, v: words([*row[:i], v, *row[i + 1 :]])  # noqa: E731
    kernel = next(
        p.start for p in pieces(done.templates[key], done.templates, done.functions, row) if p.kind == "kernel"
    )
    pointers = lambda p: {"pointers/000002": struct.pack(f"<{len(p)}I", *p)}  # noqa: E731
    patch = asdict(graph.patches[0])
    text = done.sections()[f"template/{key}"]
    yield words(row[:-1])
    yield words([*row, 0])
    yield put(kernel, 99)  # no such function
    yield put(kernel + 1, 0)  # no grid
    yield put(kernel + 4, 2048)  # too many threads
    yield put(kernel + 7, 1 << 20)  # more shared memory than was allowed
    yield put(graph.pointers[0], BASE + SIZE + 1)
    yield put(graph.patches[0].slot, 5 << 32)  # not the captured value
    yield pointers(graph.pointers[::-1])
    yield pointers((*graph.pointers, 1 << 20))
    yield pointers((kernel, *graph.pointers))  # the number of a function is no address
    yield {"pointers/000002": b"123"}
    yield {"probe/000002": b""}
    yield {f"template/{key}": text.replace(b'"memset"', b'"memcpy"', 1)}
    yield {"extra": b"?"}
    for path, value in (
        (("graphs", 1, "patches", 0), patch | {"name": "world"}),
        (("graphs", 1, "patches", 0), patch | {"slot": graph.pointers[0]}),
        (("graphs", 1, "patches", 0), patch | {"byte": 6}),
        (("graphs", 1, "patches"), [patch, patch]),
        (("graphs", 1, "template"), "00"),
        (("graphs", 1, "probe", "fills"), [["lost", 4]]),
        (("graphs", 1, "probe", "inputs"), [["ids", 1 << 30]]),
        (("graphs",), []),
        (("graphs", 0, "size"), 2),
        (("functions", 0, "layout"), [[0, 8], [4, 8]]),
        (("functions", 0, "binary"), "00"),
        (("functions", 0, "symbol"), "a\nb"),
        (("functions", 0, "settings"), [["dynamic_shared", 0]]),
        (("functions", 0, "settings"), [["dynamic_shared", -2], ["non_portable_cluster", 0], ["shared_carveout", -1]]),
        (("ranks", "rank", "width"), 3),
        (("ranks",), {}),
        (("arena", "base"), 4095),
        (("binaries", next(iter(done.binaries))), 1),
        (("format",), "pickle"),
    ):
        yield changed(done, *path, value=value)


def test_a_proper_container_with_nonsense_in_it(done):
    seen = 0
    for sections in nonsense(done):
        with pytest.raises(Refused) as caught:
            decode(Archive(archive.encode(done.sections() | sections)))
        assert caught.value.cause in ("malformed", "corrupt"), sections.keys()
        seen += 1
    assert seen == 34


def test_relocation_moves_addresses_and_patches_ranks(done):
    graph = done.graphs[2]
    row, there = graph.row, moved(graph, 1 << 30, {"rank": 7})
    differ = {i: b - a for i, (a, b) in enumerate(zip(row, there)) if a != b}
    assert differ == dict.fromkeys(graph.pointers, 1 << 30) | {graph.patches[0].slot: 7 << 32}
    assert moved(graph, 0) == row


def test_parameters_there_and_back():
    layout = ((0, 8), (8, 4), (16, 24))
    values = (b"a" * 8, b"b" * 4, b"c" * 24)
    assert unpack(pack(values, layout), layout) == values
    assert len(pack(values, layout)) == 40
    with pytest.raises(ValueError, match="4 bytes was given 3"):
        pack((values[0], b"bbb", values[2]), layout)
    assert plain({"priority": (0,), "cluster": (2, 1, 1)}) == (("cluster", (2, 1, 1)),)
    with pytest.raises(ValueError, match="'cluster' of 2"):
        plain({"cluster": (2, 1)})


def test_explored(done, tmp_path):
    path = stored(tmp_path / "a.foundry", done)
    about = cuda_explore.inspect(path)
    outer = next(t for t in about["templates"] if 1 in t["sizes"])
    assert outer["sizes"] == [1, 2, 4]
    assert outer["ports"] == {"default": 4, "programmatic": 1}
    assert [t["inside"] for t in about["templates"] if not t["sizes"]] == [
        sorted(t["key"][:8] for t in about["templates"] if t["sizes"])
    ]
    rows = cuda_explore.parameters(path, 2)
    assert {r["of"] for r in rows if r["address"]} == {"table", "w", "s", "ids", "scratch"}
    assert [r["name"] for r in rows if "rank" in r] == ["byte 8"]
    between = cuda_explore.between_sizes(path, 1, 2)
    assert {r["name"] for r in between if r["node"] == 0} == {"width"}
    assert any(r.get("other_label") == "large" for r in cuda_explore.between_sizes(path, 2, 4))
    with pytest.raises(ValueError, match="different templates"):
        cuda_explore.between_sizes(path, 1, 8)
    other = stored(tmp_path / "b.foundry", replace(done, graphs={n: done.graphs[n] for n in (1, 2, 8)}, size=2 * SIZE))
    assert cuda_explore.diff(path, path) == {}
    assert cuda_explore.diff(path, other) == {
        "arena_bytes": {"first": SIZE, "second": 2 * SIZE},
        "graphs": {4: "only in the first"},
    }


def test_one_explorer_takes_both_backends(done, tmp_path):
    path, other = tmp_path / "a.foundry", tmp_path / "cpu.foundry"
    archive.write(path, done.sections())
    archive.write(other, cpu().sections())
    assert explore.inspect(path) == cuda_explore.inspect(path)
    assert explore.parameters(path, 2) == cuda_explore.parameters(path, 2)
    assert explore.between_sizes(path, 1, 2) == cuda_explore.between_sizes(path, 1, 2)
    assert explore.diff(path, path) == {} and explore.inspect(other)["backend"] == "cpu"
    with pytest.raises(Refused, match="holds graphs of a GPU") as told:
        explore.diff(path, other)
    assert told.value.cause == "foreign"


def test_without_a_replay_no_gpu_is_needed(done, tmp_path, monkeypatch):
    def asked():
        raise AssertionError("a driver was asked for")

    monkeypatch.setattr(driver_cuda, "Cuda", asked)
    path = stored(tmp_path / "a.foundry", done)
    fine = {"usable": True, "cause": "", "why": "", "checked": ["checksums", "structure"], "verified_sizes": []}
    assert explore.verify(path, replay=False) == cuda_explore.verify(path, replay=False) == fine
    path.write_bytes(path.read_bytes()[:-1])
    assert explore.verify(path, replay=False)["cause"] == "truncated"
    archive.write(path, cpu(backend="hip").sections())
    assert explore.verify(path, replay=False)["cause"] == "foreign"


@pytest.mark.parametrize("trouble", [Unsupported("no such node here"), TimeoutError("no answer in 30 s")])
def test_what_keeps_it_from_being_replayed_is_told(done, tmp_path, monkeypatch, trouble):
    def fails(*_, **__):
        raise trouble

    monkeypatch.setattr(cuda, "load", fails)
    said = cuda_explore.verify(stored(tmp_path / "a.foundry", done), Double())
    assert (said["usable"], said["why"]) == (False, str(trouble))


def test_verify_says_why(done, tmp_path):
    path, double = stored(tmp_path / "a.foundry", done), Double()
    said = cuda_explore.verify(path, double, options={"weights": fill, "here": double.about()})
    assert (said["usable"], said["verified_sizes"]) == (True, [1, 2, 4, 8])
    said = cuda_explore.verify(path, Double(name="Other"), options={"weights": fill})
    assert (said["cause"], said["checked"]) == ("foreign", ["checksums", "structure"])
    path.write_bytes(path.read_bytes()[:-1])
    assert cuda_explore.verify(path, double)["cause"] == "truncated"
