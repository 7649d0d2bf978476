"""Ratios and money: prices are dated or absent, arithmetic is the bill's, and what cannot run says why."""

import math
from dataclasses import replace

import pytest

from workbench.hetermoe.arms import Fleet, arms, choose, chosen
from workbench.hetermoe.baselines import Model, disaggregated, expert_parallelism, ideal, pipeline
from workbench.hetermoe.beside import table
from workbench.hetermoe.claims import fitted
from workbench.hetermoe.gpus import MODELS, TABLE, Gpu, gpu, modelled, read, write
from workbench.hetermoe.outlook import moved, outlook
from workbench.hetermoe.plan import PlanError
from workbench.hetermoe.profile import Curve, Device, Load, Memory, Profile, Surface
from workbench.hetermoe.ratio import AtLength, cheapest, crossovers, fastest, lengths, mixes
from workbench.hetermoe.search import search

KEY = "by hand"
MODEL = Model(4, 12, 2, KEY)
PRICED = {"new": 3.0, "old": 0.5}


def test_every_ratio_has_its_plan_and_its_bill(hand):
    profile, load = hand
    given, fleet = profile(0.5, 0.8, 1.0, 0.02), Fleet("new", 3, "old", 4, PRICED)
    found = mixes(MODEL, given, fleet, load(), micro_batches=(1, 2))
    assert {(m.attention, m.expert) for m in found} == {(m, n) for m in range(4) for n in range(5)} - {(0, 0)}
    for mix in found:
        assert (mix.plan.attention, mix.plan.expert) == (
            (mix.attention or mix.expert),
            mix.expert * bool(mix.attention),
        )
        assert mix.usd_h == 3.0 * mix.attention + 0.5 * mix.expert
        assert mix.usd_per_million == pytest.approx(mix.usd_h / 3600 / mix.tokens_per_s * 1e6)
    by = {(m.attention, m.expert): m for m in found}
    assert by[2, 3].tokens_per_s == pytest.approx(
        max(2 * 96 / search(replace(by[2, 3].plan.with_offload((0,) * 4), micro_batches=r), given, load()).step_s
            for r in (1, 2))
    )  # fmt: skip
    assert by[2, 0].tokens_per_s == pytest.approx(expert_parallelism(MODEL, given, {"new": 2}, load()))
    assert fastest(found).tokens_per_s == max(m.tokens_per_s for m in found)
    assert cheapest(found).usd_per_million == min(m.usd_per_million for m in found)
    dear = mixes(MODEL, given, replace(fleet, usd_h={"new": 3.0, "old": 5.0}), load(), ratios=[(1, 0), (1, 1), (0, 1)])
    assert (cheapest(dear).attention, cheapest(dear).expert) == (1, 0)  # old devices that cost more are left out


def test_an_unknown_price_leaves_the_dollars_out(hand):
    profile, load = hand
    fleet = Fleet("new", 1, "old", 1, {"new": None, "old": 0.5})
    found = mixes(MODEL, profile(), fleet, load())
    assert [m.usd_per_million is None for m in found] == [False, True, True]  # 0:1, 1:0, 1:1
    assert cheapest(found).attention == 0
    with pytest.raises(PlanError, match="no mix has a price"):
        cheapest(found[1:])
    assert Fleet.priced(gpu("A40"), 1, gpu("V100"), 2, spot=True).usd_h == {"A40": None, "V100": 0.74}
    with pytest.raises(PlanError, match="A40: no on-demand price is known"):
        gpu("A40").usd_h()


def test_what_does_not_fit_says_why(hand):
    profile, load = hand
    small = profile(memory=Memory(2**30, 2**28, 1), new_gib=10, old_gib=20)
    found = {(m.attention, m.expert): m for m in mixes(MODEL, small, Fleet("new", 1, "old", 3), load())}
    assert found[1, 1].plan is None
    assert "too few" in found[1, 1].why
    assert found[1, 1].tokens_per_s == 0
    assert "needs 48.25 GiB" in found[1, 0].why
    assert found[1, 3].plan is not None
    with pytest.raises(PlanError, match="no ratio fits"):
        fastest([found[1, 1]])


def test_lengths_cross_where_attention_starts_to_count():
    """Old devices take attention's square term five times as long: EP wins while sequences are short."""

    def device(name, square):
        surface = Surface((128, 4096), tuple(Curve(((64, 64 * (1 + square * s)),)) for s in (128, 4096)))
        return Device(name, surface, Curve(((64, 64.0),)), Curve(((64, 1e-9),)))

    given = Profile(KEY, (device("new", 0.001), device("old", 0.005)), Curve(((1, 0.0),)), 1.0, Memory(0, 0))
    what, fleet = Load(64, 128, "new", "old"), Fleet("new", 1, "old", 1)
    found = lengths(Model(2, 2, 1, KEY), given, fleet, what, (128, 512, 2048, 4096))
    assert [at.winner for at in found] == ["ep", "zebra", "zebra", "zebra"]
    (at,) = crossovers(found, "zebra", "ep")
    assert 128 < at < 512
    assert crossovers(found, "zebra", "distep") == []
    for row in found:
        rates = row.tokens_per_s
        assert rates["zebra"] >= rates["plain"] > rates["distep"]
        ranks, here = {"new": 1, "old": 1}, replace(what, length=row.length)
        half = replace(here, tokens=32)  # EP's ranks share what zebra's one attention rank has
        assert rates["ideal"] == pytest.approx(ideal(Model(2, 2, 1, KEY), given, ranks, half))
        assert rates["ep"] >= expert_parallelism(Model(2, 2, 1, KEY), given, ranks, half) * (1 - 1e-9)
        assert rates["distep"] == pytest.approx(disaggregated(Model(2, 2, 1, KEY), given, 1, 1, here))


def test_the_planner_chooses_by_what_it_expects(hand):
    """EP where both devices attend alike and messages cost nothing; zebra where the old one is slow at it."""
    profile, load = hand
    slow = arms(MODEL, profile(1.0, 1.0, 1.0), Fleet("new", 1, "old", 1), load())
    assert chosen(slow).name == "zebra"
    assert chosen(slow).tokens_per_s == max(arm.tokens_per_s for arm in slow.values())
    given = profile(1.0, 1.0, 1.0)
    alike = replace(given, devices=(given.devices[0], replace(given.devices[0], name="old")))
    assert chosen(arms(MODEL, alike, Fleet("new", 1, "old", 1), load())).name == "ep"
    tokens = {name: arm.load.tokens * arm.plan.attention for name, arm in slow.items()}
    assert tokens == dict.fromkeys(("zebra", "plain", "distep", "ep"), 96)
    best = choose(MODEL, profile(1.0, 1.0, 1.0), Fleet("new", 1, "old", 1), load(), (1, 2, 4))
    assert best.plan.micro_batches == 4  # no message costs a start here
    assert best.tokens_per_s >= chosen(slow).tokens_per_s
    start = Surface((64,), (Curve(((24.0, 90.0), (96.0, 96.0))),))  # what a stage costs however small it is
    dear = replace(given, devices=tuple(replace(d, attention=start) for d in given.devices))
    assert choose(MODEL, dear, Fleet("new", 1, "old", 1), load(), (1, 2, 4)).plan.micro_batches < 4
    small = profile(memory=Memory(2**30, 0, 1), new_gib=1, old_gib=1)
    with pytest.raises(PlanError, match="nothing fits"):
        chosen(arms(MODEL, small, Fleet("new", 1, "old", 1), load()))


def test_an_outlook_holds_what_a_panel_draws(hand):
    profile, load = hand
    given, fleet = profile(0.5, 0.8, 1.0, 0.02), Fleet("new", 2, "old", 2, PRICED)
    view = outlook(MODEL, given, fleet, load(), over=(32, 64))
    assert set(view.arms) == {"zebra", "plain", "ep", "distep"}
    assert {span.rank for span in view.chosen.line.spans} == set(range(4))
    assert [row.length for row in view.lengths] == [32, 64]
    assert view.lengths[1].tokens_per_s["zebra"] == pytest.approx(view.arms["zebra"].tokens_per_s)
    assert set(view.crossings) == {"ep", "distep", "ideal"}
    assert len(view.mixes) == 8
    assert all(len(used) == 4 for used in view.memory.values())
    plain = view.arms["plain"]
    dragged = moved(plain, given, 1, 0, 0)
    assert dragged.plan.offload == (0, 1, 0, 0)
    assert dragged.line.utilisation[0] > plain.line.utilisation[0]
    assert dragged.line.step_s == plain.line.step_s  # the other old device is as full as before
    assert moved(dragged, given, 1, 11, 1).line.step_s < plain.line.step_s
    assert moved(dragged, given, 1, 0, plain.plan.owner[1][0]).line == plain.line
    for ask, says in (((0, 0, 9), "on rank 9"), ((0, 99, 0), "no expert 99"), ((4, 0, 0), "in layer 4")):
        with pytest.raises(PlanError, match=says):
            moved(plain, given, *ask)
    rows = table(fitted()).to_dict("records")
    assert {row["how"] for row in rows} == {"fitted"}
    assert rows[0]["number"].startswith("utilisation of A40 over V100")


def test_a_crossover_by_hand():
    rows = [AtLength(s, {"a": a, "b": 1.0}, ()) for s, a in ((100, 2.0), (200, 0.5), (300, 1.0), (400, 4.0))]
    assert crossovers(rows, "a", "b") == pytest.approx([150.0, 300.0])
    assert crossovers([rows[0], replace(rows[1], tokens_per_s={"a": 0.0, "b": 1.0}), rows[3]], "a", "b") == []


def test_the_pipeline_shares_layers_by_speed(hand):
    profile, load = hand
    even = profile(0.0, 1.0, 1.0)
    cut = pipeline(Model(8, 4, 1, KEY), even, {"new": 1, "old": 1}, load())
    assert cut.layers == (4, 4)
    # 96 tokens in 8 micro-batches of 12: a stage takes 4 layers x 12 x 3, and 9 of those pass
    assert cut.tokens_per_s == pytest.approx(96 / (9 * 4 * 12 * 3))
    assert pipeline(Model(8, 4, 1, KEY), profile(0.0, 1.0, 3.0), {"new": 1, "old": 1}, load()).layers == (6, 2)
    with pytest.raises(PlanError, match="not of 1"):
        pipeline(MODEL, even, {"new": 1}, load())
    tiny = profile(memory=Memory(2**30, 0, 1), new_gib=2, old_gib=2)
    with pytest.raises(PlanError, match="no cut of the layers fits"):
        pipeline(MODEL, tiny, {"new": 1, "old": 1}, load())


def test_the_table_is_dated_and_can_be_edited(tmp_path):
    file = tmp_path / "gpus.csv"
    edited = [gpu("A40").priced(0.4, None, "2026-10-01", "my contract"), *TABLE[3:]]
    write(file, edited)
    assert read(file) == edited
    assert gpu("A40", edited).usd_h() == 0.4
    for row in TABLE:
        known = [p for p in (row.on_demand_usd_h, row.spot_usd_h) if p is not None]
        assert bool(known) == bool(row.on and row.source)
    text = file.read_text()
    file.write_text(text.replace("149.7", "fast"))
    with pytest.raises(PlanError, match=r"gpus\.csv, line 2"):
        read(file)
    file.write_text("name,tflops\n")
    with pytest.raises(PlanError, match="needs the columns"):
        read(file)
    with pytest.raises(PlanError, match="cannot be read"):
        read(tmp_path / "none.csv")
    for change, says in (
        ({"on_demand_usd_h": -1.0}, "0 or more dollars"), ({"spot_usd_h": math.inf}, "0 or more dollars"),
        ({"on_demand_usd_h": 1.0}, "needs its date and its source"), ({"tflops": 0}, "above 0"),
    ):  # fmt: skip
        with pytest.raises(PlanError, match=says):
            replace(Gpu("x", 1, 1, 1, True), **change)
    with pytest.raises(PlanError, match="no GPU 'P100' in the table"):
        gpu("P100")
    with pytest.raises(PlanError, match="no attention rate for B200"):
        modelled(MODELS["D1"], ("B200",), 1.0)


def test_shapes_have_the_published_sizes():
    """Of the table of models: what an expert holds was inferred from these."""
    sizes = {"W1": 2.2, "W2": 4.3, "D1": 2.1, "D2": 1.2, "D3": 3.5}
    assert {name: round(MODELS[name].billions, 1) for name in sizes} == sizes
