"""A run of the system: what it measures, its controls, what it says of wrong settings, what follows the slider."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.lte import SYSTEM, activity, arms, decode, measure, recorded, save, shelf, sim, speed, work
from workbench.lte.preview import preview
from workbench.lte.result import CHANCE, Activity, Row
from workbench.system import ConfigError, Point

TEXT = "A bold film, and a dull one."


@pytest.fixture(scope="module")
def trained():
    """Both arms of the tiny model, trained once."""
    config = SYSTEM.make("tiny", text=TEXT)
    told = []
    found = {arm.name: arm for arm in arms.trained(config, lambda *step: told.append(step))}
    return config, found, told


@pytest.fixture(scope="module")
def result():
    said = []
    return wb.run("lte", preset="tiny", text=TEXT, on_event=said.append), said


def test_a_tiny_run_trains_scores_and_times(result):
    found, said = result
    s = found.summary()
    assert abs(s["sparsity"] - found.config.target) < 0.06
    assert s["accuracy"] > 0.85
    assert s["dense_accuracy"] > 0.85
    assert s["exact"] == 1.0
    assert found.control_max_diff > 100 * found.decode_max_diff
    assert 1 <= s["amdahl_ceiling"] < 3
    assert s["decode_tok_s"] > 0
    assert {e.series for e in said if isinstance(e, Point)} >= {"dense: task loss (nats)", "LTE: left out (share)"}
    assert len(found.found("train", "LTE", "sparsity")) == 70
    assert found.training().layout.title.text
    assert found.experts().layout.sliders[0].steps[-1].label == found.activity.words[-1]


def test_another_threshold_leaves_more_out_without_training(trained):
    _, found, _ = trained
    lte = found["LTE"]
    shares = {}
    for tau in (0.1, 0.5, 0.9):
        lte.model.set_tau(tau)
        shares[tau] = activity.run_text(lte.model, lte.tokens, TEXT).active().mean()
    lte.model.set_tau(0.5)
    assert shares[0.1] > shares[0.5] > shares[0.9]


def test_experts_by_lot_run_as_many_and_others(trained):
    _, found, _ = trained
    model, task = found["LTE"].model, found["LTE"].task
    ids = torch.tensor([task.examples("test")[0].ids])
    with model.as_mode("hard"):
        own = model.hidden(ids)
        many = [(g > 0.5).sum(-1) for g in model.gates()]
        with measure.by_lot(model, seed=3):
            other = model.hidden(ids)
            chosen = [layer.chosen(g, 0.5) for layer, g in zip(model.layers, model.gates())]
        assert torch.equal(model.hidden(ids), own)  # taken away again
    assert not torch.allclose(own, other)
    assert torch.equal(chosen[0].sum(-1).long(), many[0])
    assert not torch.equal(chosen[0].bool(), model.gates()[0] > 0.5)


def test_sparse_decoding_is_the_definition(trained):
    """Logits of the kernel's forward against Hugging Face's in hard mode; other experts give other logits."""
    config, found, _ = trained
    arm = found["LTE"]
    lm = decode.SparseLM(arm.model, arm.tokens, config.weights)
    for text in (TEXT, "Short.", "1", "Prompts of other lengths are right too. " * 3):
        exact, control = decode.against_definition(lm, arm.model, arm.tokens.encode(text))
        assert exact < 1e-4
        assert control > 10 * exact
    step = decode.generate(lm, arm.tokens.encode(TEXT), 6, "sparse")
    ids = []
    while True:
        try:
            ids.append(next(step))
        except StopIteration as end:
            done = end.value
            break
    assert done.ids == ids
    assert done.active.shape == (6, lm.config.layers, lm.kernel.experts)
    whole = arm.tokens.encode(TEXT)
    with arm.model.as_mode("hard"):  # the same tokens, one after the other, by the definition
        for token in ids:
            logits = arm.model.model(input_ids=torch.tensor([whole]), use_cache=False).logits[0, -1]
            assert int(logits.argmax()) == token
            whole.append(token)
    with pytest.raises(ValueError, match="a prompt of at least one token"):
        next(decode.generate(lm, [], 3, "sparse"))


def test_sparse_decoding_in_bfloat16(trained):
    """A stand-in is of the half type and the kernels' sum of float32: whole prompts and single tokens take both."""
    _, found, _ = trained
    arm = found["LTE"]
    assert all(layer.stand_in is not None for layer in arm.model.layers)
    lm = decode.SparseLM(arm.model, arm.tokens, "bfloat16")
    ids = arm.tokens.encode(TEXT)
    exact, control = decode.against_definition(lm, arm.model, ids)
    assert exact < 0.05
    assert control > 3 * exact
    assert len(list(decode.generate(lm, ids, 2, "sparse"))) == 2


def test_dense_ways_of_decoding_agree(trained):
    config, found, _ = trained
    arm = found["dense"]
    lm = decode.SparseLM(arm.model, arm.tokens, config.weights)
    prompt, said = arm.tokens.encode(TEXT), {}
    for way in ("torch", "dense"):
        said[way] = list(decode.generate(lm, prompt, 8, way))
    assert said["torch"] == said["dense"]
    with arm.model.as_mode("dense"):
        logits = arm.model.model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1]
    assert int(logits.argmax()) == said["dense"][0]


def test_kernel_rows_have_what_the_figure_needs(trained):
    config, found, _ = trained
    model, task = found["LTE"].model, found["LTE"].task
    texts = [torch.tensor([e.ids]) for e in task.examples("test")[:5]]
    inputs, masks = speed.seen(model, texts, 5)
    assert [len(x) for x in inputs] == [2] * 5
    layers = speed.Layers(model, config.weights)
    router = layers.routers[1]
    from workbench.kernels import sparse_mlp as sm

    for x, mask in zip(inputs, masks):  # the packed router chooses what the model's did
        assert torch.equal(sm.route(x[1], router), mask[1])
    masks[2:] = [[torch.zeros_like(m) for m in token] for token in masks[2:]]  # two rounds do not come to these
    going, shares = speed.timed(layers, inputs, masks, 2), []
    while True:
        try:
            shares.append(next(going))
        except StopIteration as end:
            rows = {r.name: r for r in end.value}
            break
    assert shares[-1] == 1.0
    assert set(rows) >= {"every expert", "by lot, 50%", "as routed", "router included", "torch", "memory roofline"}
    share = float(torch.stack([torch.cat(m) for m in masks[:2]]).float().mean())
    assert share > 0
    assert rows["as routed"].x == rows["router included"].x == pytest.approx(1 - share)
    assert {name for name, row in rows.items() if row.badge == "modelled"} == {"memory roofline"}


def test_union_of_rows():
    same = [np.array([[0.9, 0.1], [0.2, 0.8]])] * 4
    apart = [np.eye(4)[[i]] for i in range(4)]
    got = activity.union(same, 0.5, (1, 4, 8))
    assert [(n, m) for n, m, _ in got] == [(1, 0.5), (4, 0.5)]  # 8 do not fit
    assert [m for _, m, _ in activity.union(apart, 0.5, (1, 2, 4))] == [0.25, 0.5, 1.0]
    assert activity.union(apart, 0.5, (2,))[0][2] == pytest.approx(1 - 0.75**2)


def test_activity_is_kept_to_a_255th():
    gates = np.random.default_rng(0).random((3, 4, 5))
    kept = Activity.of(gates, list("abcd"), 0.5)
    again = Activity.model_validate_json(kept.model_dump_json())
    assert np.abs(again.array() - gates).max() <= 0.5 / 255 + 1e-6
    assert again.active(0.0).sum() >= again.active(0.5).sum() >= again.active(1.0).sum() == 0
    with pytest.raises(ValueError, match="2 words for 4 tokens"):
        Activity.of(gates, ["a", "b"], 0.5)


def test_the_slider_thresholds_the_last_text_without_a_run(result):
    found, _ = result
    config = found.config
    titles = [preview(config.model_copy(update={"tau": tau})).layout.title.text for tau in (0.1, 0.9)]
    low, high = (int(t.split(": ")[1].split(" %")[0]) for t in titles)
    assert low < high
    assert activity.shown(config) == (found.activity, True)
    other = config.model_copy(update={"text": "Another text."})
    assert activity.shown(other) == (found.activity, False)
    assert "Run looks at yours" in preview(other).layout.meta["text"]


def test_one_text_is_kept_for_each_task(monkeypatch):
    monkeypatch.setattr(activity, "_last", {})
    texts = {text: SYSTEM.make("tiny", text=text) for text in ("one", "two", "three")}
    news = SYSTEM.make("tiny", task="news", text="one")
    found = {text: Activity.of(np.zeros((1, 1, 1)), [text], 0.5) for text in (*texts, "news")}
    activity.remember(news, found["news"])
    for text, asked in texts.items():
        activity.remember(asked, found[text])
        assert activity.shown(asked) == (found[text], True)
    assert activity.shown(texts["one"]) == (found["three"], False)
    assert activity.shown(news) == (found["news"], True)
    assert len(activity._last) == 4


def test_what_is_said_of_two_pairs_of_models_keeps_each_together():
    """Both shipped pairs are scored; only one is drawn, and no score stands beside the other one's sparsity."""

    def scores(unit, dense, lte, left_out):
        return [
            Row(what="score", name="dense", x=0.0, value=dense, unit=unit),
            Row(what="score", name="LTE", x=left_out, value=lte, unit=unit),
        ]

    news, sentiment = scores("perplexity", 25.0, 31.0, 0.7), scores("accuracy", 0.91, 0.88, 0.82)
    for task, rows, said in (
        (
            "news",
            [*news, *sentiment],
            "70 % of the FFN left out, perplexity 31.0 on 12 held-out windows where the dense arm has 25.0",
        ),
        (
            "sentiment",
            [*sentiment, *news],
            "82 % of the FFN left out, accuracy 0.880 on 96 held-out sentences where the dense arm has 0.910",
        ),
    ):
        found = work.stamped(SYSTEM.make("small", task=task), "cpu", 1.0, {"rows": rows})
        assert said in found.sentence()
        claim = found.claims()[0]
        assert (claim.ours, claim.note[:21]) == (82.0, "accuracy -3.0 points ")
    alone = work.stamped(SYSTEM.make("small", task="news"), "cpu", 1.0, {"rows": news})
    assert alone.claims()[0].ours is None  # there is no accuracy to lose


def test_full_tuning_is_in_float32(monkeypatch):
    half = "bfloat16"
    monkeypatch.setattr("workbench.lte.config.chosen_dtype", lambda wanted: half if wanted == "auto" else wanted)
    assert SYSTEM.make("train", tune="full").weights == "float32"
    assert SYSTEM.make("train").weights == "bfloat16"  # adapters are float32 themselves
    assert SYSTEM.make("small", tune="full").weights == "bfloat16"  # nothing is trained
    with pytest.raises(ConfigError, match=r"dtype: steps of training are lost in bfloat16.*take float32, or tune="):
        SYSTEM.make("train", tune="full", dtype="bfloat16")
    assert SYSTEM.make("train", dtype="bfloat16").weights == "bfloat16"


def test_modelled_time_of_a_token():
    """Half of LLaMA2-7B's FFN is 31 % of what a token reads; everything left out leaves attention and head."""
    assert sim.latency_cut_pct("LLaMA2-7B", "RTX 3090 Ti", 0.5) == pytest.approx(30.8, abs=0.5)
    a100, h200 = (sim.latency_cut_pct("LLaMA2-7B", device, 0.5) for device in ("A100", "H200"))
    assert a100 == pytest.approx(h200)
    assert sim.ceiling("SmolLM2-135M", 0.8) == pytest.approx(1.77, abs=0.03)  # 1.89 by weights alone, less KV cache
    assert sim.token_s("LLaMA2-7B", "A100", 0.9) < sim.token_s("LLaMA2-7B", "A100", 0.0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        sim.token_s("LLaMA2-7B", "A100", 1.2)
    paper = work.simulated(SYSTEM.make("paper"))
    assert paper.summary()["latency_cut_pct"] == pytest.approx(30.8, abs=0.5)
    assert set(paper.provenance.badges.values()) == {"modelled"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"text": "  "}, "text: is empty"),
        ({"text": "a" * 401}, "text: has 401 characters"),
        ({"use": "shipped"}, "use: nothing is shipped for the tiny model"),
        ({"tau": 1.2}, "tau"),
        ({"target": 0.0}, "target"),
    ],
)
def test_wrong_settings_are_named(changes, says):
    with pytest.raises(ConfigError, match=says):
        SYSTEM.make("tiny", **changes)


def test_settings_without_a_meaning_are_said():
    said = []
    wb.run("lte", preset="paper", new_tokens=5, on_event=said.append)
    assert any("does not use new_tokens" in getattr(e, "text", "") for e in said)
    assert "target" in SYSTEM.make("small", target=0.7).unused()


@pytest.mark.model
@pytest.mark.parametrize("task", sorted(filter(shelf.has_artifact, shelf.FOLDERS)))
class TestShipped:
    """What lies beside the code: files that load, numbers that are the goal's, damage that is refused."""

    @pytest.mark.parametrize("count", ["x", "unread"])
    def test_trained_lte_beats_what_needs_no_training(self, task, count):
        """From its own sparsity on, whether neurons are counted or weights, as far as the others reach."""
        rows = recorded.rows(task)
        good = (lambda v: v) if task == "sentiment" else (lambda v: -math.log(v))
        lte = [r for r in rows if r.name == "LTE"]
        own = [r for r in lte if r.x >= lte[0].x]  # the first row is the threshold it was trained with
        for name in ("CATS, after training", "TEAL, after training", "blocks by chance"):
            points = sorted((getattr(r, count), good(r.value)) for r in rows if r.name == name)
            reach = [r for r in own if getattr(r, count) <= points[-1][0]]
            assert own[0] in reach or (name.startswith("CATS") and count == "unread"), name
            for r in reach:
                assert good(r.value) > np.interp(getattr(r, count), *zip(*points)), (name, r)

    def test_damage_is_refused(self, task, tmp_path):
        whole = shelf.ARTIFACTS / shelf.FOLDERS[task] / "lte"
        copy = tmp_path / "lte"
        shutil.copytree(whole, copy)
        config, tensors = save.read(copy)
        assert config["arm"] == "lte"
        assert len(tensors) > 100
        file = copy / save.WEIGHTS
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 2] ^= 4
        file.write_bytes(raw)
        with pytest.raises(save.ArtifactError, match="checksum"):
            save.read(copy)
        (copy / save.CONFIG).write_text(json.dumps(config | {"format": 99}))
        with pytest.raises(save.ArtifactError, match="format"):
            save.read(copy)

    def test_both_are_small(self, task):
        for arm in ("dense", "lte"):
            assert (shelf.ARTIFACTS / shelf.FOLDERS[task] / arm / save.WEIGHTS).stat().st_size < 1e7


@pytest.mark.model
def test_what_is_said_of_the_shipped_model():
    """Held out, both arms after the same steps: four fifths left out cost two points, and far more without training."""
    rows = recorded.rows("sentiment")
    lte = next(r for r in rows if r.name == "LTE" and r.x >= 0.8)
    dense = next(r for r in rows if r.name == "dense")
    rest = [r.value for r in rows if r.name not in ("LTE", "dense", *recorded.ORACLES) and r.x > 0.75]
    assert len(rest) >= 6
    assert max(rest) + 0.15 < lte.low < lte.value < dense.value
    assert dense.value - lte.value < 0.02
    assert lte.low < lte.value < lte.high
    assert CHANCE not in {r.name for r in recorded.rows()}
