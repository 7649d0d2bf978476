"""Ways take turns, parts of the benchmark are chosen: with processes that stand for others, without torch."""

import itertools
import threading

import pytest

from workbench.foundry import bench, rivals
from workbench.foundry.config import FIRST, FoundryConfig
from workbench.foundry.expected import curves
from workbench.foundry.ready import Ready
from workbench.pump import Stopped


class Standing:
    """A process that is ready; every step of it takes what the clock says."""

    def __init__(self, name, log, us):
        self.name, self.log, self.us = name, log, us

    def send(self, fields):
        self.log.append((self.name, fields["size"]))

    def answer(self, *, patience_s, stop=None):
        if stop is not None and stop.is_set():
            raise Stopped("cancelled")
        return {"us": next(self.us)}


def test_each_way_has_a_turn_before_any_has_the_next():
    log, heard = [], []
    ways = {name: Standing(name, log, itertools.count(start)) for name, start in (("foundry", 0), ("aoti", 100))}
    took = rivals.by_turns(ways, (2, 8), 3, patience_s=5, hear=heard.append)
    assert log == [(name, size) for size in (2, 8) for _ in range(3) for name in ways]
    assert took == {"foundry": {2: [0, 1, 2], 8: [3, 4, 5]}, "aoti": {2: [100, 101, 102], 8: [103, 104, 105]}}
    assert [(f["what"], f["done"], f["total"]) for f in heard] == [
        ("steps of batch 2", 0, 2),
        ("steps of batch 8", 1, 2),
    ]
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        rivals.by_turns(ways, (2,), 1, patience_s=5, stop=stop)


def test_a_way_is_ready_when_every_size_has_run_and_times_no_inputs():
    ran, put = [], []

    def inputs(size):
        put.append(size)
        return lambda: ran.append(size)

    one = Ready("eager", 0.0, 0.5, 3.0, inputs, lambda size: f"left {size}", {"load": 0.1})
    told = one.first_runs((2, 8), lambda *_: None)
    assert (ran, told["tokens"]) == ([2, 8], {2: "left 2", 8: "left 8"})
    assert told["at_s"][2] <= told["at_s"][8] == told["ready_s"]
    measured = rivals.from_json({**told, "at_s": {str(k): v for k, v in told["at_s"].items()}})
    assert (measured.phases, dict(measured.step_us), measured.disk_mb) == ({"load": 0.1}, {}, 3.0)
    ran.clear()
    assert one.turn(8) >= 0
    one.turn(8)
    one.turn(2)
    assert ran == [8, 8, 8, 2, 2]  # the first of a size follows one that nobody times
    assert put == [2, 8, 8, 2]


def test_parts_of_the_benchmark_are_chosen(monkeypatch):
    asked = []
    monkeypatch.setattr(bench, "measure", lambda *case: asked.append(case) or [{"case": case[0]}])
    monkeypatch.setattr(bench, "starts", lambda *case: asked.append(case) or [{"case": case[0]}])
    monkeypatch.setenv("WORKBENCH_BENCH", "aoti compiled")
    assert bench.main() == [{"case": 6}, {"case": True}]
    assert asked == [bench.CASES["aoti"], bench.STARTS["compiled"]]
    monkeypatch.setenv("WORKBENCH_BENCH", "aoti seven")
    with pytest.raises(ValueError, match="no part is called seven; there are six aoti thirty whole vllm compiled"):
        bench.main()
    monkeypatch.delenv("WORKBENCH_BENCH")
    asked.clear()
    bench.main()
    assert asked == [*bench.CASES.values(), *bench.STARTS.values()]
    assert {way for _, ways in bench.CASES.values() for way in ways} == set(rivals.WAYS)


def test_a_ladder_without_batch_1_is_compiled_once():
    assert FoundryConfig().sizes == FIRST
    without = FoundryConfig(ladder=7, single=False)
    assert without.sizes == FIRST[1:]
    cold = {name: dict(curves(config)["cold"]) for name, config in (("all", FoundryConfig()), ("not", without))}
    assert cold["all"][1.0] < cold["not"][7.0] < cold["all"][1.0] + 2  # steps, and nothing compiled again
    assert cold["all"][8.0] > cold["not"][7.0] + 10
