"""The built-in engine: a branch has the same bits alone and in a batch, KV is reused and counted, grammars hold."""

import sys
import weakref
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from loop_tools import answer, drain, ids_of

from workbench import lm
from workbench.lm.packed import exact_rows
from workbench.plato.embedded import EmbeddedEngine
from workbench.plato.engine import Ask, Constraint
from workbench.plato.graph import plan_of
from workbench.plato.happen import Settings
from workbench.plato.layout import Layout
from workbench.plato.planner import Given


class Spy(EmbeddedEngine):
    """Keeps the logits of every token that was chosen, by sequence."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.logits = {}

    def _choose(self, row, logits):
        self.logits.setdefault(row.ask.name, []).append(logits.clone())
        return super()._choose(row, logits)


@pytest.fixture(scope="module")
def tiny():
    return lm.load("tiny")


TRUNK, BUDGET = ids_of(150, 1), 12
TAILS = {f"branch {n}": ids_of(3 + 40 * n, 10 + n) for n in range(4)}  # the last are prompts of more than one piece


def branch(name, budget=BUDGET, **more):
    return Ask(name, TRUNK + TAILS[name], budget, whole=True, **more)


def forked(engine, *names, more=()):
    """Branches of a trunk that is there already; `more` are others that run beside them."""
    engine.forget()
    drain(engine, Ask("trunk", TRUNK, 0))
    return drain(engine, *[branch(name) for name in names], *more)


# -- alone and in a batch ------------------------------------------------------------------------------------------


def check_alone_and_together(model):
    engine = Spy(model)
    others = [Ask("other", ids_of(70, 5), 30, whole=True), Ask("short", ids_of(2, 6), 9, whole=True)]
    together = forked(engine, *TAILS, more=others)
    batch, engine.logits = engine.logits, {}
    widths = list(engine.counts.widths)
    assert max(widths) == 6
    for name in TAILS:
        alone = forked(engine, name)
        assert len(alone.ids[name]) == BUDGET
        if exact_rows(model.dtype) > 100:  # emulated bf16 promises no bits: lm/packed.py
            assert alone.ids[name] == together.ids[name]
            assert all(torch.equal(a, b) for a, b in zip(engine.logits[name], batch[name], strict=True))
    assert len({together.ids[name] for name in TAILS}) == 4
    return batch


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_branch_has_the_same_bits_alone_and_in_a_batch(dtype):
    check_alone_and_together(lm.load("tiny", dtype))


@pytest.mark.model
@pytest.mark.parametrize("dtype", sorted({"float32", lm.fast_dtype()}))
def test_the_real_models_branches_too(dtype):
    try:
        model = lm.load("smollm2", dtype)
    except lm.ModelUnavailable as error:
        pytest.skip(str(error))
    check_alone_and_together(model)


@pytest.mark.parametrize("pad", [None, lambda tokens: 8])
def test_a_branch_says_what_a_plain_loop_over_forward_says(tiny, pad):
    """The reference knows no batch, no fork and no pieces."""
    engine = Spy(tiny, pad=pad)
    told = forked(engine, *TAILS)
    for name, tail in TAILS.items():
        ids, cache = list(TRUNK + tail), tiny.new_cache(400)
        logits = tiny.forward(torch.tensor(ids), cache, 0)
        for at, (token, found) in enumerate(zip(told.ids[name], engine.logits[name], strict=True)):
            assert torch.allclose(found, logits, rtol=1e-4, atol=1e-4)
            assert int(logits.argmax()) == token
            logits = tiny.forward(torch.tensor([token]), cache, len(ids) + at)


def test_a_damaged_trunk_changes_every_branch_and_nan_ends_them(tiny):
    """The control: what is reused is what the branches are computed from."""
    engine = EmbeddedEngine(tiny)
    right = forked(engine, *TAILS)

    def damaged(change):
        engine.forget()
        drain(engine, Ask("trunk", TRUNK, 0))
        (entry,) = engine._held._entries
        change(entry.kv.v[1])
        return drain(engine, *map(branch, TAILS))

    wrong = damaged(lambda v: v[:, :150].copy_(v[:, :150].roll(1, dims=1)))
    assert all(wrong.ids[name] != right.ids[name] for name in TAILS)
    broken = damaged(lambda v: v[:, 7].fill_(float("nan")))
    assert set(broken.ended.values()) == {"failed"}
    assert "NaN" in broken.said["branch 0"]
    assert forked(engine, "branch 0").ids["branch 0"] == right.ids["branch 0"]  # nothing of it is left


# -- KV ------------------------------------------------------------------------------------------------------------


def test_every_token_of_a_prompt_is_reused_or_computed(tiny):
    engine = EmbeddedEngine(tiny)
    told = forked(engine, *TAILS)
    assert told.reused == dict.fromkeys(TAILS, 150)
    assert told.prefilled == {name: len(tail) for name, tail in TAILS.items()}
    assert engine.counts.prefilled == 150 + sum(map(len, TAILS.values()))
    assert engine.counts.reused == 4 * 150
    engine.forget()
    drain(engine, Ask("trunk", TRUNK, 0))
    cold = drain(engine, *[branch(name, share=False) for name in TAILS])
    assert cold.reused == dict.fromkeys(TAILS, 0)
    assert cold.prefilled == {name: 150 + len(tail) for name, tail in TAILS.items()}


def test_reused_kv_says_the_same_as_computed_kv(tiny):
    """To the bit where the pieces fall alike, as here: the trunk ends where a piece does."""
    engine = Spy(tiny, chunk=50)
    shared = forked(engine, "branch 0", "branch 3")
    logits, engine.logits = engine.logits, {}
    cold = drain(engine, branch("branch 0", share=False), branch("branch 3", share=False))
    assert cold.ids["branch 0"] == shared.ids["branch 0"]
    for name in ("branch 0", "branch 3"):
        assert all(torch.equal(a, b) for a, b in zip(logits[name], engine.logits[name], strict=True))


class Watched(EmbeddedEngine):
    """Knows the caches that it made and that are still alive."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.made = weakref.WeakSet()

    def _kv(self, source, tokens, capacity):
        made = super()._kv(source, tokens, capacity)
        self.made.add(made)
        return made


def test_kv_is_freed_when_nobody_can_use_it(tiny):
    engine = Watched(tiny, hold_tokens=400)
    forked(engine, *TAILS)
    assert engine.held_tokens <= 400
    assert len(engine.made) == len(engine._held) < 4
    engine.forget()
    assert len(engine.made) == 0
    drain(engine, branch("branch 1", share=False))
    assert len(engine.made) == 0  # it may not be shared: nobody can use it
    engine.start(branch("branch 2"))
    engine.step()
    assert len(engine.made) == 1
    engine.stop("branch 2")
    assert len(engine.made) == 0
    forked(engine, "branch 1")
    assert len(engine.made) == 1  # the trunk's is in the branch's
    engine.close()
    assert len(engine.made) == 0


def test_a_fork_has_just_the_room_it_needs(tiny):
    engine = EmbeddedEngine(tiny)
    engine.start(branch("branch 0"))
    assert engine._rows["branch 0"].kv.capacity == 150 + 3 + BUDGET


# -- what is said --------------------------------------------------------------------------------------------------


def test_sampling_depends_on_seed_and_name_and_not_on_company(tiny):
    def run(seed, *names):
        engine = EmbeddedEngine(tiny, lm.Sampler(temperature=1.0, seed=seed))
        return drain(engine, *[Ask(name, TRUNK, 16, whole=True, share=False) for name in names]).ids

    both = run(0, "a", "b")
    assert both["a"] != both["b"]
    assert run(0, "a") == {"a": both["a"]}
    assert run(1, "a") != {"a": both["a"]}


def test_without_exactness_it_says_the_same_and_not_to_the_bit(tiny, monkeypatch):
    monkeypatch.setattr("workbench.lm.packed.plain_rows", lambda _: 3)  # whichever product is faster on this machine
    exact, loose = Spy(tiny), Spy(tiny, exact=False)
    assert forked(loose, "branch 0").ids == forked(exact, "branch 0").ids
    found, expected = torch.stack(loose.logits["branch 0"]), torch.stack(exact.logits["branch 0"])
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(found, expected)


class Ends:
    """A sampler that ends the answer as soon as it may."""

    def pick(self, logits, request, position):
        return 257 if bool(logits[257] > float("-inf")) else int(logits.argmax())


def test_the_models_stop_id_ends_an_answer_and_a_whole_one_never_says_it(tiny):
    told = drain(EmbeddedEngine(tiny, Ends()), Ask("a", TRUNK, 9), Ask("b", TRUNK, 9, whole=True))
    assert (told.ids["a"], told.ended["a"]) == ((), "stop")
    assert (len(told.ids["b"]), told.ended["b"]) == (9, "budget")
    assert 257 not in told.ids["b"]


LARK = 'start: LINE LINE LINE? LINE?\nLINE: "Part " /[0-9]/ ": " /[a-z]{1,5}/ "\\n"'


def test_a_grammar_holds_and_its_forced_tokens_take_no_step(tiny):
    def run(forced):
        engine = EmbeddedEngine(tiny)
        ask = Ask("plan", TRUNK, 60, Constraint(LARK, forced=forced))
        return engine, drain(engine, ask)

    engine, told = run(True)
    text = engine.decode(told.ids["plan"])
    for line in text.splitlines()[:-1]:
        assert (line[:5], line[6:8]) == ("Part ", ": ")
        assert line[8:].isalpha()
    slow, same = run(False)
    assert same.ids == told.ids
    assert engine.counts.forced > 12  # "Part " and ": ", twice
    assert slow.counts.forced == 0
    assert engine.counts.decoded + engine.counts.forced == slow.counts.decoded
    assert engine.counts.steps < slow.counts.steps - 12
    free = drain(EmbeddedEngine(tiny), Ask("plan", TRUNK, 60, whole=True))
    assert free.ids != told.ids


def test_a_script_is_followed_at_the_price_of_its_steps(tiny):
    engine = EmbeddedEngine(tiny)
    script = "Part 1: abc\nPart 2: xyz\n"
    told = drain(engine, Ask("plan", TRUNK, 99, Constraint(LARK, script=script)))
    assert (engine.decode(told.ids["plan"]), told.ended["plan"]) == (script, "constraint")
    assert engine.counts.decoded + engine.counts.forced == len(script)
    assert engine.counts.decoded >= 2 + 6  # digits and letters are choices
    with pytest.raises(ValueError, match="the script is no text of the grammar"):
        engine.start(Ask("wrong", TRUNK, 99, Constraint(LARK, script="Part x")))
    assert engine.running() == []


def test_bad_input_is_named(tiny):
    engine = EmbeddedEngine(tiny)
    with pytest.raises(ValueError, match="token ids 0 to 511, not 512"):
        engine.start(Ask("a", (1, 512), 3))
    with pytest.raises(ValueError, match="needs 16385 positions"):
        engine.start(Ask("a", (1,) * 16380, 5))
    with pytest.raises(ValueError, match="character 1 is half of a surrogate pair"):
        engine.encode("a\ud800")
    assert engine.running() == []


@pytest.mark.model
def test_the_real_models_parts_are_the_same_decoded_again_alone():
    """Each part of a conducted answer, from its own prompt, one at a time: token for token, fp32."""
    try:
        engine = EmbeddedEngine(lm.load("smollm2"))
    except lm.ModelUnavailable as error:
        pytest.skip(str(error))
    plan = plan_of([("What is rain?", ()), ("What is snow?", ()), ("How do they differ?", (1, 2))], budget=12)
    found, _ = answer(engine, "Tell me about rain and snow.", Given(plan), Settings(whole=True))
    assert max(found.counts.widths) == 2
    assert all(p.text.strip() for p in found.parts if p.kind == "node")
    lay = Layout(engine, "Tell me about rain and snow.")
    assert found.part(3).prompt[: len(lay.front)] == lay.front
    for n in (1, 2, 3):
        engine.forget()
        alone = drain(engine, Ask("again", found.part(n).prompt, 12, whole=True))
        assert alone.ids["again"] == found.part(n).ids
