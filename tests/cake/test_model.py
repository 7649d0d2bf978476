"""The paper's numbers from the cost model, its four models, and how long the pictures take."""

from dataclasses import replace

import pytest

import workbench as wb
from workbench.cake import SYSTEM, claims, model_time, paper
from workbench.cake.config import PRESETS
from workbench.cake.policy import Policy
from workbench.cake.sim import ttft
from workbench.cake.work import simulated_costs

LENGTHS = (1024, 2048, 4096, 8192, 16_384, 32_768)
LINKS = (100, 300, 875, 1750, 3125, 6250, 12_500, 25_000, 50_000)


def named(*words):
    found = [c for c in claims.paper_claims() if all(word in c.what for word in words)]
    assert found, words
    return found


def off(claim):
    return abs(claim.ours / claim.paper - 1)


def test_every_claim_says_where_it_comes_from():
    found = claims.paper_claims()
    assert len(found) == 2 * len(paper.TABLE_3) + 2 + 4 + 3 + 5 + 6 + 2 + 1
    assert len({c.what for c in found}) == len(found)
    for claim in found:
        assert claim.badge == "modelled" and claim.source
        assert "error" in claim.note or "not known" in claim.note or "without guards" in claim.note


def test_a_mean_that_the_paper_does_not_print_says_so():
    rows = named("speed-up over", "computed here")
    assert len(rows) == 2 * len(paper.TABLE_3) and all("geometric mean of table 3's row" in c.what for c in rows)
    assert all("%" in c.note.split("error by Gbit/s")[1] for c in rows)


def test_averages_are_near_and_say_over_which_cells():
    over_load, over_compute = named("average speed-up over", "only")[:2]
    assert (over_load.paper, over_compute.paper) == (2.23, 3.76)
    assert off(over_load) < 0.1 and off(over_compute) < 0.15
    assert "32 of the 35 cells" in over_compute.note and "average 3.27" in over_compute.note
    for claim in named("average speed-up over", "16k"):
        assert off(claim) < 0.15 and "cells are not known" in claim.note


def test_the_guarded_policy_does_not_lose_where_the_paper_does():
    lost = [c for c in claims.paper_claims() if "loses" in c.source]
    assert [c.paper for c in lost] == [0.99, 0.80, 0.91, 0.98, 0.99]
    assert all(c.ours >= 1 / 1.03 for c in lost)
    assert all("future work" in c.note for c in lost)


def test_the_bare_rule_does_lose_there():
    """Control: without the guards the same simulator is slower than loading, as the paper's system is."""
    bare = [
        claims.speedups(paper.costs_at("H100", share, 32, model), paper.TOKENS, int(512 * share / 100), guards=False)[0]
        for model, share in (("Llama-3.1-70B", 12.5), ("Llama-3.1-70B", 50.0), ("Llama-3.1-8B", 12.5))
    ]
    assert max(bare) < 1.0


def test_compression_is_predicted():
    """Fewer bits: less over load-only, more over compute-only, each within 15 % of the paper."""
    rows = named("KV of")
    assert len(rows) == 6 and max(off(c) for c in rows) < 0.15
    over_load = [c.ours for c in rows if "load-only" in c.what]
    assert over_load == sorted(over_load, reverse=True)


def test_compression_is_not_a_fit_of_anything():
    """Control: with the bits left out, the 3-bit row is missed by far."""
    over_load, over_compute = claims.speedups(paper.costs_at("2xA100", 100.0, 32), paper.TOKENS)
    assert over_load > 1.5 * 1.37 and over_compute < 0.6 * 3.73


def test_a_varying_link_is_followed():
    """On the synthetic trace the policy ends near the best split in hindsight, and in the paper's order of size."""
    meets, seconds = named("varying link")
    assert 0.5 < seconds.ours / seconds.paper < 2 and 0.5 < meets.ours / meets.paper < 2
    times = float(seconds.note.rsplit("; ", 1)[1].split()[0])
    assert 1.0 <= times < 1.15


def test_mixed_load_gains_from_short_ones_first():
    (claim,) = named("22 short ones")
    assert claim.ours < 0.95 * 1.5  # the calibrated time in order of arrival
    assert off(claim) < 0.2


def test_the_calibrated_model_is_itself_and_others_are_scaled():
    base = paper.calibrated("A100", 100.0)
    assert paper.scaled_to(base, paper.CALIBRATED) == base
    assert base.compute_range_s(0, paper.TOKENS, paper.STEP) == pytest.approx(paper.compute_only_s("A100", 100.0))
    for model, kv_bytes in paper.KV_BYTES.items():
        costs = paper.calibrated("A100", 100.0, model)
        assert costs.load_token_s * 1e9 / 8 == pytest.approx(kv_bytes)
    seven, seventy = (paper.calibrated("A100", 100.0, m).token_s for m in ("LongAlpaca-7B", "Llama-3.1-70B"))
    assert seventy / seven == pytest.approx(70.6 / 6.74)


def test_a_share_that_the_table_lacks_is_scaled_as_on_the_a100():
    eighth, half = (paper.calibrated("H100", share).token_s for share in (12.5, 50.0))
    assert eighth / half == pytest.approx(paper.compute_only_s("A100", 12.5) / paper.compute_only_s("A100", 50.0))


def test_figure_4_checks_the_scaling():
    """The chunk of another model than the calibrated one, within a quarter; as 13B it would be missed (control)."""
    assert all(off(c) < 0.25 for c in named("first chunk"))
    assert 1e3 * paper.calibrated("A100", 100.0).compute_s(0, 512) / 40 > 1.5


def test_the_grid_of_models_lengths_and_bandwidths():
    table = model_time.model_grid("A100", 100.0, list(paper.KV_BYTES), LENGTHS, LINKS)
    assert [len(rows) for rows in table.values()] == [len(LENGTHS)] * 4
    best = {m: LINKS[max(range(len(LINKS)), key=rows[-2].__getitem__)] for m, rows in table.items()}
    assert best["Llama-3.1-70B"] < best["Llama-3.1-8B"] < best["LongAlpaca-7B"]
    assert all(v >= 1 / 1.03 for rows in table.values() for row in rows for v in row)


def test_the_grid_is_the_simulator():
    costs = paper.costs_at("A100", 100.0, 25, "Llama-3.1-8B")
    cell = model_time.model_grid("A100", 100.0, ["Llama-3.1-8B"], [8192], [3125])["Llama-3.1-8B"][0][0]
    single = min(model_time.single_s(costs, 8192, paper.GRAIN, paper.STEP, 1))
    assert cell == pytest.approx(single / ttft(Policy(costs), 8192))


def test_a_simulated_run_takes_its_model_from_the_config():
    costs, token_bytes, _, source = simulated_costs(PRESETS["paper"])
    assert (token_bytes, costs.token_s) == (800_000, paper.calibrated("A100", 100.0).token_s)
    other = PRESETS["paper"].model_copy(update={"sim_model": "Llama-3.1-8B"})
    found, found_bytes, _, said = simulated_costs(other)
    assert found_bytes == 128_000 and found.load_token_s == pytest.approx(costs.load_token_s * 128 / 800)
    assert "Llama-3.1-8B" in said and "scaled by size" in said and "scaled" not in source


def test_a_wider_type_has_more_bytes():
    half, full = (
        simulated_costs(
            PRESETS["small"].model_copy(update={"sim_device": "one CPU core", "dtype": d, "link_mb_s": 9.0})
        )
        for d in ("bfloat16", "float32")
    )
    assert full[1] == 2 * half[1] and full[0].load_token_s == pytest.approx(2 * half[0].load_token_s)
    assert "not measured" in full[3] and "not measured" not in half[3]


def test_several_simulated_requests_lie_between_their_bound_and_the_worst_order():
    result = wb.run("cake", preset="paper", requests=3)
    s = result.summary()
    assert 0 < s["lower_bound_ttft_s"] <= s["oracle_ttft_s"] <= s["ttft_s"]
    assert "best order found" in result.sentence()
    fifo = wb.run("cake", preset="paper", requests=3, batch="fifo").summary()  # the control: an order that is not best
    assert fifo["ratio_to_oracle"] > 1.1 and fifo["oracle_ttft_s"] == s["oracle_ttft_s"]
    assert len(result.curve.oracle_s) == len(result.curve.bound_s) == len(result.curve.cake_s)
    assert all(b <= c * (1 + 1e-9) for b, c in zip(result.curve.bound_s, result.curve.cake_s, strict=True))


def test_the_curve_lies_between_its_bound_and_the_single_modes():
    config = PRESETS["paper"]
    costs, token_bytes, link, _ = simulated_costs(config)
    curve = model_time.curve(costs, token_bytes, config, 512, 1, link)
    rows = zip(curve.bound_s, curve.oracle_s, curve.cake_s, curve.compute_s, curve.load_s, strict=True)
    for bound, oracle, cake, compute, load in rows:
        assert bound <= oracle * (1 + 1e-4) and oracle <= cake * (1 + 1e-4)
        assert cake <= 1.03 * min(compute, load)


def test_a_read_of_fixed_cost_moves_the_curve():
    costs, token_bytes, link, _ = simulated_costs(PRESETS["paper"])
    far = replace(costs, load_request_s=0.01)
    near, slow = (model_time.curve(c, token_bytes, PRESETS["paper"], 512, 1, link) for c in (costs, far))
    assert slow.load_s[-1] > near.load_s[-1] and slow.compute_s == near.compute_s


@pytest.mark.parametrize("link_mb_s", [1e-6, 0.01, 0.1])
def test_a_very_slow_link_is_simulated_in_few_steps(link_mb_s, monkeypatch):
    """Waiting for a read of hours is one wait, not a poll of every virtual second."""
    asked = []
    step = Policy.compute_step
    monkeypatch.setattr(Policy, "compute_step", lambda *args: asked.append(1) or step(*args))
    costs = simulated_costs(SYSTEM.make("paper", link_mb_s=link_mb_s))[0]
    ends = [ttft(Policy(costs, 512, 1, mode), 16000, 128) for mode in ("compute", "load", "cake")]
    assert len(asked) < 2000
    assert ends[1] > 1000 * ends[0]
    assert ends[2] <= 1.03 * ends[0]
