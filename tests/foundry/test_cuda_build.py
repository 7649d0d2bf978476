"""Updates, executables of one's own, building in the background; and the double refuses what the driver would."""

import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from workbench.foundry.archive import Refused
from workbench.foundry.cuda_build import Build, Cancelled, split
from workbench.foundry.driver import Child, DriverError, Edge, Kernel, Memcpy, Memset, UpdateRefused

sys.path.insert(0, str(Path(__file__).parent))
from cuda_small import BASE, SIZE, captured, code, rebuilt, run, step, stored
from driver_double import Double


@pytest.fixture(scope="module")
def small():
    return captured()


@pytest.fixture(scope="module")
def path(small, tmp_path_factory):
    return stored(tmp_path_factory.mktemp("cuda") / "small.foundry", small[0])


loaded = partial(rebuilt, verify="never")


def test_only_what_differs_is_set(small, path):
    double = Double()
    with loaded(path, double) as ladder:
        key = small[0].graphs[2].template
        differing = sum(a != b for a, b in zip(*(split(small[0], key, small[0].graphs[n].row) for n in (1, 2))))
        ladder.replay(1)
        assert ladder.counts["updates"] == 0
        ladder.replay(2)
        assert (ladder.counts["updates"], ladder.counts["nodes_set"]) == (1, differing)
        double.calls.clear()
        ladder.replay(2)
        assert [c for c in double.calls if "Set" in c or "Update" in c] == []
        assert double.calls.count("cuGraphLaunch") == 1


def test_a_size_that_is_asked_for_often_gets_its_own(small, path):
    with loaded(path, promote_after=3) as ladder:
        ladder.most_promoted = 1
        for _ in range(4):
            for n in (1, 2):
                assert run(ladder, n) == small[1][n]
        assert len(ladder.promoted) == 1
        before = ladder.counts["updates"]
        (own,) = ladder.promoted
        for _ in range(3):
            run(ladder, own)
        assert ladder.counts["updates"] == before
        assert not ladder.promote(8)  # no room for another
        assert not ladder.promote(own)
    with loaded(path, hot=[2, 8]) as ladder:
        assert ladder.promoted == [2, 8]
        assert run(ladder, 8) == small[1][8]
        assert ladder.counts["updates"] == 0


@pytest.mark.parametrize("way", ["nodes", "graph"])
def test_a_refused_update_makes_the_executable_anew(small, path, way, monkeypatch):
    double = Double()
    with loaded(path, double, way=way) as ladder:
        run(ladder, 1)

        def no(*_):
            raise UpdateRefused("CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED")

        for name in ("update", "set_executable"):
            monkeypatch.setattr(double, name, no)
        assert run(ladder, 4) == small[1][4]
        assert len(ladder.notes) == 1
        assert "instantiated again: cuGraphExecUpdate" in ladder.notes[0]
        monkeypatch.undo()
        assert run(ladder, 2) == small[1][2]
        real, failing = double.instantiate, []

        def once(graph):
            if not failing:
                failing.append(graph)
                raise DriverError("cuGraphInstantiate", "CUDA_ERROR_OUT_OF_MEMORY")
            return real(graph)

        monkeypatch.setattr(double, "instantiate", once)
        for name in ("update", "set_executable"):
            monkeypatch.setattr(double, name, no)
        with pytest.raises(DriverError, match="OUT_OF_MEMORY"):
            ladder.replay(4)
        assert run(ladder, 4) == small[1][4]  # and the next attempt finds the way back
    assert double.left() == {}


def test_templates_are_built_beside_other_work(small, path):
    double = Double()
    with loaded(path, double, background=True, verify="first use", hot=[4]) as ladder:
        assert run(ladder, 8) == small[1][8]
        ladder._build.wait(30)
        assert ladder.promoted == [4]
        assert run(ladder, 4) == small[1][4]
        assert ladder.counts["built"] == 3
        assert ladder.verified == {4, 8}
    assert double.left() == {}


def test_a_build_that_hangs_is_named(path):
    """A call of the driver that does not come back: waiting and cancelling say what it hangs at."""
    double, go, inside = Double(), threading.Event(), threading.Event()
    real = double.instantiate

    def slow(graph):
        inside.set()
        assert go.wait(30)
        return real(graph)

    double.instantiate = slow
    ladder = loaded(path, double, background=True)
    assert inside.wait(30)
    build = ladder._build
    with pytest.raises(
        TimeoutError, match=r"background build of templates: 0 of 2 done after .* at template \w{8} .batch 1"
    ):
        build.wait(0.01)
    with pytest.raises(TimeoutError, match="cancelling the background build: 0 of 2"):
        build.cancel(0.01)
    with pytest.raises(RuntimeError, match="running already"):
        ladder.start_build()
    go.set()
    with pytest.raises(Cancelled, match="after 1 of 2"):
        build.wait(30)
    ladder.replay(8)  # built when it is asked for
    ladder.close()
    assert not build.running
    assert double.left() == {}


def test_an_error_of_the_build_comes_to_whoever_waits(path):
    double = Double()
    double.instantiate = lambda graph: double._need("cuGraphInstantiate", False, "CUDA_ERROR_OUT_OF_MEMORY")
    with pytest.raises(Refused, match="batch 1 cannot be built here: cuGraphInstantiate: CUDA_ERROR_OUT_OF_MEMORY"):
        loaded(path, double)
    assert double.left() == {}
    with pytest.raises(DriverError, match="INVALID_CONTEXT"):  # a thread that did not enter
        Build([("job", double.graph)], lambda: None).wait(30)


# ---- the double itself: what it refuses, the driver refuses


@pytest.fixture
def double():
    made = Double()
    made.reserve(SIZE, BASE)
    made.map(BASE, SIZE, made.create(SIZE))
    return made


def fails(code_, call, *args):
    with pytest.raises(DriverError) as caught:
        call(*args)
    assert caught.value.code == f"CUDA_ERROR_{code_}"
    return caught.value


def test_double_memory(double):
    fails("INVALID_VALUE", double.create, 100)
    fails("INVALID_VALUE", double.unreserve, BASE, SIZE)  # still mapped
    fails("INVALID_VALUE", double.map, BASE, SIZE, double.create(SIZE))  # mapped already
    fails("INVALID_VALUE", double.map, BASE + SIZE, SIZE, double.create(SIZE))  # not reserved
    fails("INVALID_VALUE", double.read, BASE + SIZE - 1, 2)
    fails("INVALID_VALUE", double.unmap, BASE, SIZE - 1)
    fails("INVALID_HANDLE", double.release, 12345)
    fails("OUT_OF_MEMORY", double.create, 1 << 40)
    assert double.reserve(SIZE, BASE) != BASE
    assert double.owner(BASE + 5) == (BASE, SIZE)
    assert double.owner(5) is None


def test_double_kernels(double):
    kernels, _ = code(double)
    g = double.graph()
    node = step(double, kernels, BASE, 2)
    good = next(double.node(n) for n in double.nodes(node) if isinstance(double.node(n), Kernel))

    def kernel(**changed):
        fields = {
            "function": good.function,
            "grid": good.grid,
            "block": good.block,
            "shared_bytes": 0,
            "values": good.values,
        }
        return Kernel(**fields | changed)

    double.add(g, kernel())
    fails("INVALID_VALUE", double.add, g, kernel(values=good.values[:-1]))
    fails("INVALID_VALUE", double.add, g, kernel(values=(*good.values[:-1], b"12345")))
    fails("INVALID_VALUE", double.add, g, kernel(grid=(0, 1, 1)))
    fails("INVALID_VALUE", double.add, g, kernel(block=(1024, 2, 1)))
    fails("INVALID_VALUE", double.add, g, kernel(shared_bytes=64 << 10))
    double.set_setting(good.function, "dynamic_shared", 64 << 10)
    double.add(g, kernel(shared_bytes=64 << 10))
    fails("INVALID_HANDLE", double.add, g, kernel(function=g))
    fails("INVALID_VALUE", double.add, g, Memset(BASE + SIZE, 0, 0, 4, 1, 1))
    fails("INVALID_VALUE", double.add, g, Memset(BASE, 0, 0, 3, 1, 1))
    fails("INVALID_VALUE", double.add, g, Memcpy(BASE, BASE - 8, 8))
    fails("NOT_FOUND", double.function, double.module(good.function), "none")
    double.unload(double.module(good.function))
    fails("INVALID_HANDLE", double.layout, good.function)


def test_double_graphs(double):
    kernels, _ = code(double)
    two, other, eight = (step(double, kernels, BASE, n) for n in (2, 4, 8))
    executable = double.instantiate(two)
    double.update(executable, other)
    refused = fails("GRAPH_EXEC_UPDATE_FAILURE", double.update, executable, eight)
    assert refused.result == "CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED"
    double.set_attributes(double.nodes(other)[1], (("cluster", (2, 1, 1)),))
    assert fails("GRAPH_EXEC_UPDATE_FAILURE", double.update, executable, other).result.endswith("ATTRIBUTES_CHANGED")
    double.set_attributes(double.nodes(other)[1], (("cluster", (3, 1, 1)),))
    fails("INVALID_CLUSTER_SIZE", double.instantiate, other)
    first, second = double.nodes(two)[:2]
    fails("INVALID_VALUE", double.connect, two, [Edge(first, second)])  # there already
    fails("INVALID_VALUE", double.connect, two, [Edge(first, double.nodes(two)[3], 1, 0, 1)])  # no kernel, no port
    fails("INVALID_VALUE", double.set_executable, executable, double.nodes(eight)[0], double.node(first))
    fails("INVALID_VALUE", double.set_executable, executable, first, double.node(second))
    fails("INVALID_VALUE", double.set_node, first, double.node(second))
    fails("INVALID_VALUE", double.set_executable, executable, double.nodes(two)[4], Child(eight))
    kept = double.node(first)
    double.destroy_graph(two)
    fails("INVALID_HANDLE", double.set_executable, executable, first, kept)
    double.launch(executable, 0)  # an executable outlives its graph
    double.destroy_executable(executable)
    fails("INVALID_HANDLE", double.launch, executable, 0)
    fails("INVALID_HANDLE", double.destroy_graph, two)


def test_double_ends_its_context_at_an_illegal_address(double):
    kernels, _ = code(double)
    g = step(double, kernels, BASE, 2)
    executable = double.instantiate(g)
    double.unmap(BASE, SIZE)
    double.launch(executable, 0)
    fails("ILLEGAL_ADDRESS", double.synchronize, 0)
    fails("ILLEGAL_ADDRESS", double.graph)
