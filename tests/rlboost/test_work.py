"""A simulated run of RLBoost: what it gives, what it tells, and what it refuses by name."""

import itertools
import math

import pytest

import workbench as wb
from workbench import runner
from workbench.published import Published
from workbench.rlboost import SYSTEM, beside
from workbench.rlboost.config import PARTS
from workbench.rlboost.prices import PAPER, TABLE, write
from workbench.rlboost.recorded import recorded
from workbench.rlboost.result import ALONE, ARMS, COLUMNS, TESTED
from workbench.rlboost.simulate import arms, trace_of
from workbench.rlboost.why import WORDS, explain
from workbench.system import Note, Point, Span

QUICK = {"hours": 0.25, "responses": 32, "longest": 1500}  # a few steps in a tenth of a second


def run_of(**changes):
    done = runner.Run(SYSTEM, SYSTEM.make("tiny", **(QUICK | changes)), record=False).start().wait(120)
    assert done.error is None, done.error
    return done


def failure(**changes):
    done = runner.Run(SYSTEM, SYSTEM.make("tiny", **(QUICK | changes)), record=False).start().wait(120)
    assert done.error is not None, "it ran"
    return str(done.error)


@pytest.fixture(scope="module")
def run():
    return run_of(hours=1.0)


@pytest.fixture(scope="module")
def parts():
    return run_of(compare="both", hours=0.5).result


def test_every_arm_has_whole_steps_in_order(run):
    result = run.result
    assert result.ways() == [TESTED, ALONE, "doubled", "disaggregated"]
    for arm in result.ways():
        rows = result.of(arm)
        assert [r.step for r in rows] == list(range(len(rows)))
        assert all(b.start_s == pytest.approx(a.start_s + a.seconds) for a, b in itertools.pairwise(rows))
        assert all(r.badge == "modelled" and r.reward is None and r.lost_tokens is None for r in rows)
    first = [result.of(arm)[0].tokens for arm in result.ways()]
    assert len(set(first)) == 1  # every arm is dealt the same responses
    assert list(result.to_frame().columns) == list(COLUMNS)
    assert not any(r.instance_s for r in result.of(ALONE))  # nobody else's machines are paid there


def test_money_is_machine_time_at_the_told_prices(run):
    result = run.result
    for row in result.rows:
        usd = (result.paid.reserved_usd_h * row.reserved_s + result.paid.instance_usd_h * row.instance_s) / 3600
        assert row.cost_usd == pytest.approx(usd)
    assert PAPER.on in result.paid.told
    assert PAPER.source in result.paid.told


def test_the_summary_has_the_numbers_that_were_asked_for(run):
    asked = {"throughput_ratio", "cost_efficiency_ratio", "tokens", "migrations", "recomputed_tokens", "step_s"}
    s = run.result.summary()
    assert asked <= set(s)
    assert not {"tokens_lost", "tokens_duplicated", "reward_first", "predicted_step_s"} & set(s)  # a live run's
    assert set(run.result.provenance.badges.values()) == {"modelled"}
    assert s["tokens"] == sum(r.tokens for r in run.result.of(TESTED))
    assert "Modelled" in run.result.sentence()


def test_what_it_tells_on_the_way(run):
    told = [event for _, event in run.events]
    spans = [e for e in told if isinstance(e, Span)]
    assert {s.kind for s in spans} >= {"compute", "seed", "transfer", "kill"}
    assert {e.series for e in told if isinstance(e, Point)} >= {"RLBoost: instances held"}
    assert any("prices: " in e.text and PAPER.on in e.text for e in told if isinstance(e, Note))
    assert [h.span() for h in run.result.held] == spans


def test_who_is_taken_away_is_on_the_timeline_also_when_nothing_was_on_it(run):
    lost = [h for h in run.result.held if h.kind == "kill"]
    assert len(lost) == sum(r.lost_instances for r in run.result.of(TESTED)) > 0


def test_lost_instances_are_those_that_were_held():
    """At every share of the trace; the trace offers, and takes away, more than pay."""
    for share in (1.0, 0.5):
        result = run_of(hours=1.0, weather="p3", share=share, seed=1, compare="parts").result
        rows = result.of(TESTED)
        end_s = rows[-1].start_s + rows[-1].seconds
        taken = sum(e.kind == "remove" and e.time_s < end_s for e in trace_of(result.config).events)
        lost = sum(row.lost_instances for row in rows)
        assert 0 < lost == sum(h.kind == "kill" for h in result.held) < taken
        assert lost <= sum(row.lost_instances for row in result.of("no cap"))
        assert not any(row.lost_instances for row in result.of(ALONE))


def test_the_same_config_gives_the_same_and_another_seed_does_not():
    one, again, other = (run_of(seed=seed).result for seed in (3, 3, 4))
    assert one.fingerprint() == again.fingerprint() != other.fingerprint()
    assert one.rows == again.rows


def test_without_instances_it_is_co_located():
    s = run_of(weather="steady", instances=0).result.summary()
    assert s["throughput_ratio"] == 1
    assert s["cost_efficiency_ratio"] == 1
    assert s["migrations"] == 0
    more = run_of(weather="steady", instances=2, responses=256, longest=14_000, hours=3.0).result.summary()
    assert more["throughput_ratio"] > 1.2  # control: with some it is not


def test_the_discount_changes_the_bill_and_no_step():
    dear, cheap = (run_of(weather="steady", instances=3, discount=d).result for d in (0.0, 0.9))
    assert [r.seconds for r in dear.rows] == [r.seconds for r in cheap.rows]
    assert dear.usd_per_million(TESTED) > cheap.usd_per_million(TESTED)
    assert dear.usd_per_million(ALONE) == cheap.usd_per_million(ALONE)
    assert "discount set to 90 %" in cheap.paid.told


def test_each_part_is_an_arm(parts):
    assert parts.ways() == [arm for arm in ARMS if arm != "no choice"]  # of one zone there is none
    assert {f"no {part}" for part in PARTS} < set(parts.ways())
    assert sum(r.wasted_tokens for r in parts.of("no migration")) >= sum(r.wasted_tokens for r in parts.of(TESTED))
    assert {r.t_seed_s for r in parts.of("no seeding") if r.instances} == {0.0}
    assert all(r.t_seed_s > 0 for r in parts.of(TESTED))
    assert max(r.instances for r in parts.of("no cap")) >= max(r.instances for r in parts.of(TESTED))


def test_a_part_that_is_off_is_off_in_every_arm_of_parts():
    config = SYSTEM.make("tiny", seeding=False, compare="parts")
    assert all("seeding" in s.without for name, s in arms(config).items() if s.system == "rlboost"), arms(config)
    assert "without seeding" in run_of(seeding=False).result.sentence()


def test_a_trace_of_ones_own(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("time_s,event,instance\n0,add,a\n0,add,b\n300,remove,a\n850,add,c\n899,remove,c\n")
    result = run_of(trace=str(file), share=1.0).result
    assert "mine.csv" in result.source
    assert {h.lane for h in result.held} >= {"a", "b"}
    assert max(n for _, n in result.there) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time_s,event,instance\n0,add,a\n7,vanish,a\n", "line 3"),
        ("time_s,event,instance\n0,add,a\n-5,remove,a\n", "line 3"),
        ("time_s,event,instance\n0,add,a\n9,add,a\n", "line 3: a is there already at 9 s, since line 2"),
        ("0,add,node1\n1000,remove,node2\n", "line 2: node2 is not there"),
        ("", "line 1: the file is empty"),
    ],
)
def test_a_malformed_trace_names_its_line(tmp_path, text, said):
    file = tmp_path / "bad.csv"
    file.write_text(text)
    assert f"{file}, {said}" in failure(trace=str(file))


def test_recorded_traces_are_found_where_they_are(tmp_path, monkeypatch):
    monkeypatch.delenv("WORKBENCH_DATA", raising=False)
    assert recorded() == {}
    for name, text in (
        ("bamboo/one.csv", "0,add,a\n600000,remove,a\n"),
        ("bamboo/LICENSE", "MIT"),
        ("prices/x.csv", ""),
    ):
        file = tmp_path / "spot" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    assert list(recorded()) == ["bamboo/one.csv"]  # neither licences nor prices
    assert recorded("nothing of that name") == {}
    result = run_of(trace=str(recorded()["bamboo/one.csv"]), share=1.0, hours=0.15).result
    assert result.source.startswith("one.csv")


def test_a_trace_that_is_not_there_is_named(tmp_path):
    assert "gone.csv" in failure(trace=str(tmp_path / "gone.csv"))


def test_prices_of_ones_own(tmp_path):
    file = tmp_path / "prices.csv"
    write(file, [*TABLE, PAPER.__class__("mine", 8, 16.0, 4.0, "2026-10-01", "my bill")])
    result = run_of(price_file=str(file), price="mine").result
    assert result.paid.reserved_usd_h == 16
    assert result.paid.instance_usd_h == 1
    assert result.paid.told == "mine, 2026-10-01: my bill"
    assert "there is no row 'yours'" in failure(price_file=str(file), price="yours")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bad,8,16,-4,2026-10,bill", "line 2: bad: spot_usd_h is -4.0"),
        ("bad,8,sixteen,4,2026-10,bill", "line 2"),
        ("bad,8,16,4,,bill", "line 2: bad: a price needs its date"),
    ],
)
def test_a_bad_price_names_its_line(tmp_path, line, said):
    file = tmp_path / "prices.csv"
    file.write_text(f"name,gpus,on_demand_usd_h,spot_usd_h,on,source\n{line}\n")
    assert f"{file}, {said}" in failure(price_file=str(file), price="bad")


def test_hours_too_short_for_a_step_are_named():
    assert failure(hours=0.001).startswith("hours: not one step of 32 responses ends within 0.001 h")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"price": "nobody's"}, 'price: there is no row "nobody\'s"'),
        ({"price": "H100, low end of lists"}, "discount: the row 'H100, low end of lists' has no price of a spot"),
        ({"nodes": 0}, "kills: there is no node to kill"),
        ({"model": "tiny", "task": "sums"}, "task: the tiny model cannot read"),
        ({"address": "auto", "kill": "node"}, "kill: nodes of your own cluster"),
        ({"discount": 1.5}, "discount: "),
        ({"instances": -1}, "instances: "),
    ],
)
def test_bad_settings_name_their_field(changes, named):
    with pytest.raises(ValueError, match="rlboost: ") as caught:
        SYSTEM.make("tiny", **changes)
    assert named in str(caught.value)


def test_settings_of_the_other_kind_are_named():
    told = [e.text for _, e in run_of(steps=3, lr=0.1).events if isinstance(e, Note) and e.level == "warning"]
    assert told == ["a simulated run does not use steps, lr"]


def test_a_claim_has_our_number_only_in_its_own_setting(run):
    assert all(claim.ours is None and claim.note for claim in run.result.claims())  # 32 short responses
    config = SYSTEM.make("paper", hours=4.0)
    assert beside.papers(config)
    as_if = run.result.model_copy(update={"config": config})
    ours = {c.what: c.ours for c in as_if.claims() if c.ours is not None}
    s = as_if.summary()
    assert ours["throughput, Qwen3-14B, mean of segments"] == s["throughput_ratio"]
    assert ours["tokens for a dollar, Qwen3-14B, mean of segments"] == 100 * (s["cost_efficiency_ratio"] - 1)
    assert not any("all the time" in what for what in ours)  # its machines come and go
    for change in ({"seeding": False}, {"responses": 512}, {"longest": 5_000}):
        assert not beside.papers(config.model_copy(update=change))
    other = as_if.model_copy(update={"config": config.model_copy(update={"discount": 0.5})})
    money = {c.what for c in other.claims() if c.ours is not None and ("dollar" in c.what or "cost" in c.what)}
    assert not money


def test_it_breaks_even_at_the_discount_that_the_claim_says():
    result = run_of(weather="steady", instances=2, responses=256, longest=14_000, hours=3.0).result
    even = beside._even(result)
    assert even is not None
    dear = result.paid.instance_usd_h / (1 - result.paid.discount)
    there = result.paid.model_copy(update={"instance_usd_h": dear * (1 - even / 100)})
    assert result.usd_per_million(TESTED, there) == pytest.approx(result.usd_per_million(ALONE, there))


def test_claims_as_a_table():
    rows = [Published("a", 2.0, 2.5, "x", "figure 1"), Published("b", -20.0, -25.0, "%", "section 6", fitted=True)]
    told = beside.table(rows)
    assert list(told["error (%)"]) == [25, -5]  # relative, and in points
    assert list(told["how"]) == ["predicted", "fitted"]


def test_spans_are_explained(run):
    said = {explain(span) for span in run.result.spans()}
    assert any("Algorithm 1" in text for text in said)
    assert any("nothing had to move" in text for text in said)
    assert not any("nan" in text or "None" in text for text in said)


@pytest.mark.parametrize("kind", sorted({*WORDS, "something else"}))
def test_every_kind_has_words(kind):
    for label in ("generate", "lost: gone; it had 5 responses", ""):
        said = explain(Span("spot-1", 1.0, 3.0, label or "x", kind))
        assert said.endswith(".")
        assert len(said.split()) >= 3


def test_a_loss_says_how_much_was_on_it():
    assert "with 5 responses on it" in explain(Span("spot-1", 1, 1, "lost: ActorDied; it had 5 responses", "kill"))
    far = "lost: node 10.0.0.7 died (SIGKILL 9); it had 3 responses"
    assert "with 3 responses on it" in explain(Span("spot-1", 1, 1, far, "kill"))
    assert "with its responses on it" in explain(Span("spot-1", 1, 1, "lost: signal 9", "kill"))
    assert "version 4 of" in explain(Span("spot-1", 1, 2, "pull weights, version 4, 4096 bytes", "transfer"))
    assert "version 0 of" in explain(Span("i1", 1, 2, "pull weights", "transfer", {"version": 0.0}))
    assert "pulled the weights in" in explain(Span("i1", 1, 2, "pull weights", "transfer"))
    assert "with 1 response on it" in explain(Span("i1", 1, 1, "kill", "kill", {"requests": 1.0}))


def test_the_papers_preset_is_a_simulation_of_the_paper():
    config = SYSTEM.make("paper")
    assert config.backend == "sim"
    assert config.hours == 12
    assert beside.papers(config)
    assert set(arms(config)) == set(ARMS) - {"no choice"}


def test_through_the_front_door():
    result = wb.run("rlboost", preset="tiny", **QUICK)
    assert result.measured is False
    assert math.isfinite(result.summary()["throughput_ratio"])
