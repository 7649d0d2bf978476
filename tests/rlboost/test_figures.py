"""Pictures of RLBoost: what is drawn is what the result holds, prices are dated, many machines stay readable."""

import math
import re

import pytest

from workbench import runner, theme
from workbench.held import Held
from workbench.rlboost import SYSTEM, figures, strips
from workbench.rlboost.chaos import schedule
from workbench.rlboost.prices import PAPER
from workbench.rlboost.result import ALONE, TESTED, Moved

BYTES = 60_000


@pytest.fixture(scope="module")
def simulated():
    done = runner.Run(SYSTEM, SYSTEM.make("tiny", compare="both", hours=0.5), record=False).start().wait(120)
    assert done.error is None, done.error
    return done.result


@pytest.fixture(scope="module")
def live(simulated):
    """The shape of a live result; its numbers are made up, only how they are drawn is looked at."""
    rows = []
    for arm, seconds in ((ALONE, 6.0), (TESTED, 4.0)):
        for step in range(4):
            base = simulated.rows[0].model_copy(update={"way": arm, "step": step, "start_s": 20.0 + step * seconds})
            told = {"seconds": seconds, "reward": 0.1 * step, "badge": "measured", "train_s": 1.0, "t_seed_s": 0.5}
            rows.append(base.model_copy(update=told | {"predicted_s": 4.4 if arm == TESTED else None}))
    spans = [
        ("spot-1", 19.0, 20.0, "join", "wait"), ("spot-1", 20.0, 20.5, "pull weights", "transfer"),
        ("spot-1", 20.5, 25.0, "generate", "decode"), ("spot-1", 25.0, 25.0, "lost: it had 3 responses", "kill"),
        ("spot-1", 25.0, 25.0, "migrate: 3 responses", "move"), ("trainer", 27.0, 28.0, "train on 8", "compute"),
        ("spot-2", 22.0, 22.0, "notice", "notice"), ("spot-2", 22.0, 24.0, "drain", "drain"),
        ("steps", 20.0, 24.0, "step 1", "step"),
    ]  # fmt: skip
    ledger = [
        Moved(request="0/1/0", pieces=[("reserved", 0, 0, 3), ("spot-1", 0, 3, 4), ("spot-2", 0, 7, 5)]),
        Moved(request="0/1/1", pieces=[("spot-2", 0, 0, 9)]),
    ]
    queues = [(20.0, "spot-1", 2, 8), (21.0, "spot-1", 0, 5), (21.0, "reserved", 0, 1)]
    held = [Held(lane=w, start_s=a, end_s=b, label=said, kind=kind) for w, a, b, said, kind in spans]
    new = {"rows": rows, "held": held, "ledger": ledger, "queues": queues, "there": [(0.0, 0), (20.0, 1), (25.0, 0)]}
    here = simulated.provenance.model_copy(update={"backend": "cpu"})
    return simulated.model_copy(update=new | {"source": "node of spot-1 in step 2", "provenance": here})


@pytest.mark.parametrize(
    ("lost", "twice", "same", "said", "unsaid"),
    [
        (0, 0, True, "with the same tokens and weights as without any kill", "NOT"),
        (0, 0, None, "with every token once", "same tokens"),
        (3, 0, True, "with 3 tokens lost", "same tokens"),
        (0, 2, None, "with 2 tokens duplicated", "every token once"),
        (3, 2, False, "with 3 tokens lost and 2 tokens duplicated, but NOT what the run without kills gave", "once"),
        (0, 0, False, "with every token once, but NOT what the run without kills gave", "same tokens"),
    ],
)
def test_the_sentence_says_what_went_wrong(live, lost, twice, same, said, unsaid):
    rows = [row.model_copy(update={"lost_tokens": 0, "duplicated_tokens": 0}) for row in live.rows]
    rows[-1] = rows[-1].model_copy(update={"lost_tokens": lost, "duplicated_tokens": twice})
    sentence = live.model_copy(update={"rows": rows, "same_tokens": same}).sentence()
    assert said in sentence
    assert unsaid not in sentence


def traces(fig, name):
    return [trace for trace in fig.data if trace.name == name]


def titles(fig):
    return [axis.title.text for axis in (*fig.select_xaxes(), *fig.select_yaxes()) if axis.title.text]


def axis_of(fig, title):
    """Name of the y axis of that title, as traces have it."""
    return next(a.plotly_name.replace("axis", "") for a in fig.select_yaxes() if a.title.text == title)


def keys(fig):
    return " ".join(note.text for note in fig.layout.annotations)


@pytest.mark.parametrize("which", ["simulated", "live"])
def test_a_result_is_a_figure_that_stands_alone(request, which):
    result = request.getfixturevalue(which)
    fig = result.figure()
    assert theme.problems(fig) == []
    assert len(fig.to_json()) < BYTES
    assert fig.layout.meta["text"] == result.sentence()
    assert PAPER.on in fig.layout.title.text
    assert PAPER.source in re.sub(r"<[^>]*>", "", fig.layout.title.text)
    assert result.source.split(",")[0] in re.sub(r"<[^>]*>", "", fig.layout.title.text)
    for trace in fig.data:
        if trace.name and trace.x:
            assert trace.name in keys(fig), "it is drawn and not named"


def test_arms_stand_beside_each_other_with_their_own_numbers(simulated):
    ratio, cost = (t for t in simulated.figure().data if t.type == "bar" and not t.name)
    assert len(ratio.y) == len(simulated.ways())
    assert list(ratio.x) == pytest.approx([simulated.throughput(a) / simulated.throughput(ALONE) for a in
                                           simulated.ways()], abs=1e-3)  # fmt: skip
    assert list(cost.x) == pytest.approx([simulated.usd_per_million(a) for a in simulated.ways()], abs=1e-3)
    assert "cost, modelled ($ per million tokens)" in titles(simulated.figure())
    assert "without seeding" in ratio.y


def test_offered_held_window_and_cap_are_the_rows(simulated):
    fig, rows = simulated.figure(), simulated.of(TESTED)
    (held,) = traces(fig, "held, mean of a step")
    assert list(held.y)[:-1] == pytest.approx([r.instances for r in rows], abs=1e-3)
    (seed,) = traces(fig, "T_seed")
    finite = [r.t_seed_s for r in rows if math.isfinite(r.t_seed_s)]
    assert [v for v in list(seed.y)[:-1] if v is not None] == pytest.approx(finite, abs=1e-3)
    (offered,) = traces(fig, "offered")
    assert max(offered.y) == max(n for at, n in simulated.there if at <= rows[-1].start_s + rows[-1].seconds)


def test_an_infinite_window_is_a_gap(simulated):
    rows = [r.model_copy(update={"t_seed_s": math.inf}) if r.step == 1 else r for r in simulated.rows]
    (seed,) = traces(simulated.model_copy(update={"rows": rows}).figure(), "T_seed")
    assert seed.y[1] is None
    nobody = [r.model_copy(update={"t_seed_s": math.inf, "n_prem": math.inf}) for r in simulated.rows]
    fig = simulated.model_copy(update={"rows": nobody}).figure()
    assert not traces(fig, "T_seed")
    assert theme.problems(fig) == []


def test_the_timeline_shows_the_steps_in_which_most_were_taken_away(simulated):
    (start, end), said = strips.window(simulated)
    rows = simulated.of(TESTED)
    lost = [r.lost_instances for r in rows]
    best = max(sum(lost[at : at + strips.STEPS]) for at in range(len(lost) - strips.STEPS + 1))
    inside = [r for r in rows if r.start_s >= start - 1e-9 and r.start_s + r.seconds <= end + 1e-9]
    assert len(inside) == strips.STEPS
    assert sum(r.lost_instances for r in inside) == best > 0
    assert "taken away" in said
    assert traces(simulated.figure(), "taken away")


def test_many_instances_are_folded_and_those_that_were_lost_stay(simulated):
    (start, _), _ = strips.window(simulated)
    many = [
        Held(lane=f"x{n}", start_s=start, end_s=start + 5 + n % 3, label="pull", kind="transfer") for n in range(40)
    ]
    lost = Held(lane="x7", start_s=start + 6, end_s=start + 6, label="kill: 2 requests", kind="kill")
    lanes, hidden = strips.chosen([*many, lost])
    assert len(lanes) == strips.LANES
    assert hidden == 40 - strips.LANES
    assert "x7" in lanes
    whole = [h for h in simulated.held if h.lane == "trainer"]
    fig = simulated.model_copy(update={"held": [*whole, *many, lost]}).figure()
    assert "machine, 30 more instances not shown" in titles(fig)
    assert len(fig.to_json()) < BYTES


def test_nothing_told_and_nobody_there_is_still_a_figure(simulated):
    fig = simulated.model_copy(update={"held": [], "there": []}).figure()
    assert theme.problems(fig) == []


def test_micro_batches_of_a_step_are_one_box():
    boxes = [Held(lane="trainer", start_s=n, end_s=n + 0.99, label="train", kind="compute") for n in range(50)]
    assert len(strips._joined(boxes)) == 1
    apart = [*boxes, Held(lane="trainer", start_s=90, end_s=95, label="train", kind="compute")]
    assert len(strips._joined(apart)) == 2


def test_a_live_run_has_its_ledger_queues_rewards_and_predictions(live):
    fig = live.figure()
    strip = {t.name: t for t in fig.data if t.type == "bar" and t.name in ("reserved", "spot-1", "spot-2")}
    drawn = {(name, y, base, x) for name, t in strip.items() for y, base, x in zip(t.y, t.base, t.x, strict=True)}
    assert drawn == {(p[0], one.request, p[2], p[3]) for one in live.ledger for p in one.pieces}
    (predicted,) = traces(fig, "predicted")
    assert list(predicted.y) == [4.4] * 4
    assert {"mean reward (0 to 1)", "position in the response (tokens)"} <= set(titles(fig))
    (measured,) = traces(fig, "step")
    assert (list(measured.x), list(measured.y)) == ([1, 2, 3, 4], [4.0] * 4)
    (held,) = traces(fig, "held, mean of a step")
    assert list(held.y).count(None) == 4  # between steps a live run waits for machines
    reward = [t for t in fig.data if t.type == "scatter" and t.yaxis == axis_of(fig, "mean reward (0 to 1)")]
    assert [list(t.y) for t in reward] == [[pytest.approx(0.1 * s) for s in range(4)]] * 2
    assert {"taken away", "notice", "responses move", "drain", "join"} <= {t.name for t in fig.data}
    assert "(measured)" in fig.layout.title.text
    assert "dollar (modelled)" in fig.layout.title.text


def test_a_simulated_run_has_none_of_these(simulated):
    assert "mean reward (0 to 1)" not in titles(simulated.figure())


def test_engines_beyond_the_palette_differ_in_pattern(live):
    looks = [strips._engine(at)["marker"] for at in range(14)]
    assert len({(m["color"], m["pattern"]["shape"]) for m in looks}) == 14


def test_the_preview_is_the_sweep():
    fig = figures.preview(SYSTEM.make("small", discount=0.5))
    heat = next(t for t in fig.data if t.type == "heatmap")
    cells = {(n, x): z for n, row in zip(heat.y, heat.z, strict=True) for x, z in zip(heat.x, row, strict=True)}
    assert all(cells[0, x] == 1 for x in heat.x)  # nobody there: co-located
    assert cells[6, 0.0] < 1 < cells[6, 70.0]
    even = next(t for t in fig.data if t.type == "scatter")
    at = dict(zip(even.y, even.x, strict=True))[6]
    assert cells[6, 10 * (at // 10)] <= 1 <= cells[6, 10 * (at // 10 + 1)]
    assert "50 %, as set" in keys(fig)
    assert PAPER.on in fig.layout.title.text
    assert theme.problems(fig) == []


def test_the_preview_of_a_steady_number_speaks_of_it():
    assert ": 3 instances at" in figures.preview(SYSTEM.make("small", weather="steady", instances=3)).layout.title.text
    none = figures.preview(SYSTEM.make("tiny", weather="steady", instances=0)).layout.title.text
    assert "nan" not in none


def test_the_preview_of_a_live_run_is_its_kills():
    config = SYSTEM.make("live", kills=5, steps=6)
    fig = figures.preview(config)
    total = [sum(t.y[step] for t in fig.data) for step in range(6)]
    assert total == [schedule(5, 6).get(step, 0) for step in range(6)]
    assert {t.name for t in fig.data} == {
        "SIGKILL of the raylet",
        "SIGKILL of the engine",
        "notice, drain, then SIGKILL",
    }
    calm = figures.preview(SYSTEM.make("live", kills=0))
    assert "no node is taken away" in calm.layout.title.text
    assert theme.problems(calm) == []
