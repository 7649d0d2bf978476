"""Modelled starts: arithmetic by hand, who wins where, and the ladder's counts against vLLM's own."""

import math
from dataclasses import replace

import pytest

from workbench.foundry.sim import (
    ARMS,
    MODELS,
    Setting,
    archive_gb,
    graph_ms,
    ladder,
    padding,
    pays_after,
    start,
    sweep,
    templates,
    update_ms,
)  # fmt: skip

SETTING = Setting("Qwen3-14B")


def phases(setting, arm):
    return {phase.name: phase.seconds for phase in start(setting, arm).phases}


def test_a_start_by_hand():
    """Dense, one rank: 512 graphs of 59.7 ms; 22 templates of 31.1 ms; weights at the rate that was set."""
    found = phases(replace(SETTING, weights_gb_s=2.95, environment_s=3.0, compile_s=7.0), "capture")
    assert found["weights"] == pytest.approx(10.0)
    assert (found["environment"], found["compile"]) == (3.0, 7.0)
    assert found["capture"] == pytest.approx(512 * 0.0597)
    assert sum(found.values()) == pytest.approx(10 + 3 + 7 + 36.0)
    assert phases(SETTING, "foundry")["templates"] == pytest.approx(22 * 0.0311)
    assert phases(SETTING, "one by one")["graphs"] == pytest.approx(512 * 0.0311)
    assert "compile" not in phases(replace(SETTING, compile_s=7.0), "eager")  # its eager mode compiles nothing
    assert start(SETTING, "eager").paper_s == pytest.approx(start(SETTING).paper_s - 512 * 0.0597)


def test_the_paper_counts_neither_weights_nor_environment():
    """The control: what it counts does move its number."""
    slow = replace(SETTING, weights_gb_s=0.1, environment_s=100.0)
    for arm in ARMS:
        assert start(slow, arm).paper_s == pytest.approx(start(SETTING, arm).paper_s)
        assert start(slow, arm).total_s > start(SETTING, arm).total_s + 300
    assert start(replace(SETTING, compile_s=9.0)).paper_s == pytest.approx(start(SETTING).paper_s + 9)


def test_what_grows_with_what():
    alone, eight = start(SETTING), start(replace(SETTING, ranks=8))
    assert eight.paper_s > alone.paper_s  # ranks of a host capture in each other's way
    assert archive_gb(replace(SETTING, ranks=8)) == archive_gb(SETTING)  # one capture serves all
    both = [start(replace(SETTING, sizes=n), arm).paper_s for arm in ("capture", "foundry") for n in (1, 51, 512)]
    assert both[:3] == sorted(both[:3])
    assert both[3:] == sorted(both[3:])
    big, small = (graph_ms(Setting(name, 8)) for name in ("Qwen3-235B-A22B", "Qwen3-30B-A3B"))
    assert big > small > graph_ms(Setting("Qwen3-14B", 8))
    assert update_ms(SETTING) == pytest.approx(0.98)
    experts, dense = (phases(Setting(name, 8), "capture")["weights"] for name in ("Qwen3-30B-A3B", "Qwen3-14B"))
    assert experts == pytest.approx(61.1 / 8 / 10)
    assert dense == pytest.approx(2.95)


def test_prefill_graphs_are_captured_by_foundry_too():
    more = replace(SETTING, prefill_graphs=40)
    for arm in ("capture", "foundry"):
        assert start(more, arm).paper_s == pytest.approx(start(SETTING, arm).paper_s + 40 * 0.0597)
    assert start(more, "eager").paper_s == start(SETTING, "eager").paper_s


def test_what_is_given_replaces_what_is_modelled():
    given = replace(SETTING, graph_ms=10.0, topologies=5, sizes=100)
    assert phases(given, "capture")["capture"] == pytest.approx(1.0)
    assert phases(given, "foundry")["templates"] == pytest.approx(given.built() * 0.0311)
    assert given.built() <= 5
    how = {phase.name: phase.how for phase in start(given, "capture").phases}
    assert (how["capture"], how["environment"], how["memory profile and warm-up"]) == ("set", "set", "predicted")
    fitted = {phase.name: phase.how for phase in start(SETTING, "capture").phases}
    assert fitted["capture"] == "fitted"
    assert {phase.how for phase in start(Setting("Qwen3-30B-A3B", 2), "foundry").phases[2:]} == {"predicted"}


def test_vllms_own_ladder():
    sizes = ladder(51)
    assert sizes[:6] == (1, 2, 4, 8, 16, 24)
    assert (len(sizes), sizes[-3:]) == (51, (480, 496, 512))
    assert ladder(512) == tuple(range(1, 513))
    assert ladder(1) == (512,)
    for n in (2, 35, 83, 300):
        assert len(set(ladder(n))) == n == len(ladder(n))
        assert ladder(n)[-1] == 512


def test_padding_by_hand():
    assert padding((1, 2, 3, 4)) == 0
    assert padding((4,)) == pytest.approx(1 - 10 / 16)
    assert padding((2, 4)) == pytest.approx(1 - 10 / 12)


def test_templates():
    assert templates(ladder(512), 22) == 22  # every regime has a size
    assert templates(ladder(512), 512) == 512
    assert templates((512,), 22) == 1
    counts = [templates(range(1, n + 1), 22) for n in range(1, 513)]
    assert counts == sorted(counts)
    assert counts[-1] == 22
    assert templates(ladder(8), 22) < 8 + 1


def test_the_sweep_tells_when_it_is_worth_it():
    rows = {row["sizes"]: row for row in sweep(SETTING)}
    saved = [row["saved (%)"] for row in rows.values()]
    assert saved == sorted(saved)
    assert rows[512]["padding (%)"] == 0 < rows[51]["padding (%)"] < rows[1]["padding (%)"]
    assert all(row["foundry_s"] <= row["one by one_s"] <= row["capture_s"] for row in rows.values())
    slow = sweep(replace(SETTING, weights_gb_s=0.1), (512,))[0]
    assert slow["saved (%)"] < 15 < 75 < rows[512]["saved (%)"]  # weights from a slow disk: little is left to save


def test_an_archive_pays_after_a_few_starts():
    assert 2 < pays_after(SETTING) < 3
    assert pays_after(replace(SETTING, sizes=1, graph_ms=0.0)) > pays_after(SETTING)
    never = replace(SETTING, graph_ms=0.0, topologies=512)  # nothing to save, and a template for every size
    assert math.isinf(pays_after(never))


def test_spans_are_one_lane_without_holes():
    spans = start(replace(SETTING, ranks=8), "foundry").spans()
    assert [span.start_s for span in spans[1:]] == pytest.approx([span.end_s for span in spans[:-1]])
    assert spans[-1].end_s == pytest.approx(start(replace(SETTING, ranks=8), "foundry").total_s)
    assert {span.lane for span in spans} == {"foundry"}
    assert [span.label for span in spans] == ["environment", "weights", "archive", "templates", "ranks"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model": "GPT-5"}, "take one of Llama3-8B"),
        ({"ranks": 0}, "1 or more"),
        ({"sizes": 0}, "a ladder has 1 to 512 sizes"),
        ({"sizes": 513}, "not 513"),
        ({"topologies": 0}, "1 to 512 topologies"),
        ({"weights_gb_s": 0.0}, "more than 0 GB/s"),
        ({"weights_gb_s": math.nan}, "more than 0 GB/s"),
        ({"compile_s": -1.0}, "0 or more"),
        ({"graph_ms": -1.0}, "0 or more"),
        ({"prefill_graphs": -1}, "0 or more"),
    ],
)
def test_bad_settings_are_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        replace(SETTING, **wrong)


def test_bad_arms_are_named():
    with pytest.raises(ValueError, match="holds one GPU, not 8: set ranks to 1"):
        start(replace(SETTING, ranks=8), "checkpoint")
    with pytest.raises(ValueError, match="take one of capture"):
        start(SETTING, "magic")
    assert set(MODELS) == {"Llama3-8B", "Gemma3-12B", "Qwen3-14B", "Qwen3-30B-A3B", "Qwen3-235B-A22B"}
