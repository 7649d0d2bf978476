"""The step loop on a toy whose KV is checked in every pass: who runs, and what is reused."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from loop_tools import Told, Toy, alone, drain, ids_of

from workbench.plato.engine import Ask, Counts
from workbench.plato.held import Held, common

# -- reuse -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_company_and_history_change_no_answer(seed):
    """Prompts that share fronts, joining and leaving at random; the toy checks every token of every KV."""
    draw = random.Random(seed)
    toy = Toy(
        chunk=draw.choice([3, 7, 16]), step_tokens=draw.choice([16, 40]), hold_tokens=draw.choice([50, 150, 2000])
    )
    told, asks, prompts = Told(), {}, [ids_of(12, seed)]
    for number in range(60):
        if len(toy.running()) < 6:
            stem = draw.choice(prompts)
            prompt = (*stem[: draw.randrange(1, len(stem) + 1)], *ids_of(draw.randrange(9), draw.random()))
            ask = Ask(f"s{number}", prompt, draw.randrange(12), share=draw.random() < 0.8)
            asks[ask.name] = ask
            toy.start(ask)
        told.take(toy.step())
        if draw.random() < 0.1 and toy.running():
            toy.stop(draw.choice(toy.running()))
        prompts += [asks[n].ids + told.ids[n] for n in told.ended if told.ended[n] and asks[n].budget][-2:]
    told.take(o for _ in range(200) if toy.running() for o in toy.step())
    ended = [name for name, how in told.ended.items() if how]
    assert len(ended) > 20
    for name in ended:
        ask = asks[name]
        assert told.ids[name] == alone(ask.ids, ask.budget)
        assert told.reused[name] + told.prefilled[name] == len(ask.ids)
        assert ask.share or told.reused[name] == 0
    assert toy.held_tokens <= toy._held._most
    assert toy.counts.reused > 50  # there was something to get wrong
    assert toy.counts.steps == toy.passes == len(toy.counts.widths) == len(toy.counts.tokens)


def test_a_fork_of_the_wrong_kv_is_noticed():
    """The control of the test above: the toy's check can fail."""

    class Wrong(Toy):
        def _kv(self, source, tokens, capacity):
            kv = super()._kv(source, tokens, capacity)
            if tokens > 3:
                kv[3] = 61
            return kv

    toy = Wrong()
    drain(toy, Ask("a", ids_of(10), 2))
    with pytest.raises(AssertionError, match="KV of b is not that of its tokens"):
        drain(toy, Ask("b", (*ids_of(10), 1, 2), 2))


def test_the_longest_front_is_reused_from_ended_and_from_running():
    toy, front = Toy(), ids_of(20)
    told = drain(toy, Ask("short", front[:8], 1), Ask("long", front, 3))
    assert told.reused == {"short": 0, "long": 0}  # started together: none was there yet
    told = drain(toy, Ask("child", (*front, 1, 2), 2))
    assert (told.reused["child"], told.prefilled["child"]) == (20, 2)
    toy.forget()
    toy.start(Ask("runs", front, 50))
    for _ in range(5):
        toy.step()
    running = front + alone(front, 50)[:3]
    toy.start(Ask("forks", (*running, 9), 1))
    told = Told()
    told.take(toy.step())
    assert told.reused["forks"] == 23  # the prompt and what the running one has decoded
    assert toy.running() == ["runs"]


def test_a_prompt_that_is_held_whole_computes_its_last_token_again():
    toy = Toy()
    drain(toy, Ask("a", ids_of(10), 4))
    told = drain(toy, Ask("b", ids_of(10), 4))
    assert (told.reused["b"], told.prefilled["b"]) == (9, 1)  # somebody must give its logits
    assert told.ids["b"] == alone(ids_of(10), 4)


def test_no_budget_computes_the_prompt_and_nothing_else():
    toy = Toy()
    told = drain(toy, Ask("trunk", ids_of(30), 0))
    assert (told.ids["trunk"], told.ended["trunk"]) == ((), "budget")
    assert (toy.counts.prefilled, toy.counts.decoded, toy.held_tokens) == (30, 0, 30)
    told = drain(toy, Ask("again", ids_of(30), 0))
    assert (told.reused["again"], told.prefilled["again"], toy.passes) == (30, 0, 1)  # and no pass for it
    told = drain(toy, Ask("child", (*ids_of(30), 1), 1))
    assert told.reused["child"] == 30


def test_what_is_not_shared_neither_takes_nor_gives():
    toy = Toy()
    drain(toy, Ask("a", ids_of(10), 2))
    told = drain(toy, Ask("b", ids_of(10), 2, share=False))
    assert (told.reused["b"], told.prefilled["b"]) == (0, 10)
    toy.forget()
    toy.start(Ask("c", ids_of(10), 9, share=False))
    toy.step()
    told = drain(toy, Ask("d", ids_of(10), 2))
    assert told.reused["d"] == 0
    assert toy.held_tokens == 11  # d's ten and the first of its two


def test_counts_add_up():
    toy = Toy(chunk=8)
    told = drain(toy, Ask("a", ids_of(20), 3), Ask("b", ids_of(20, 1), 5))
    c = toy.counts
    assert (c.prefilled, c.reused, c.decoded, c.forced) == (40, 0, 8, 0)
    assert sum(c.tokens) == 40 + (3 - 1) + (5 - 1)  # the last token of each is never computed
    assert c.widths == [len(step) for step in toy.log]
    assert told.prefilled == {"a": 20, "b": 20}
    before = c
    toy.forget()
    assert toy.counts == Counts()
    assert before.decoded == 8  # an outcome's counts are not taken away from under it


# -- held ----------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_goes_first():
    held = Held(25)
    for name in (1, 2):
        held.add((name,) * 10, f"kv {name}")
    assert held.longest((1, 1, 7)) == (2, "kv 1")  # used: now 2 is the older one
    held.add((3,) * 10, "kv 3")
    assert (len(held), held.tokens) == (2, 20)
    assert held.longest((2, 2)) == (0, None)
    assert held.longest((1,) * 12) == (10, "kv 1")
    held.add((4,) * 26, "too long")
    assert held.tokens == 20
    held.add((), "nothing")
    assert len(held) == 2


def test_no_entry_is_the_beginning_of_another():
    held = Held(100)
    held.add((1, 2, 3), "short")
    held.add((1, 2, 3, 4), "long")
    assert (len(held), held.longest((1, 2, 3))) == (1, (3, "long"))
    held.add((1, 2), "shorter")
    assert held.longest((1, 2)) == (2, "long")
    held.add((1, 2, 9), "branch")
    assert (len(held), held.tokens) == (2, 7)
    held.clear()
    assert len(held) == held.tokens == 0


def test_common_fronts():
    assert common((1, 2, 3), (1, 2, 4)) == 2
    assert common((1, 2), (1, 2, 4)) == 2
    assert common((), (1,)) == common((2,), (1,)) == 0


def test_a_stopped_sequence_leaves_nothing():
    toy = Toy()
    toy.start(Ask("a", ids_of(10), 20))
    for _ in range(4):
        toy.step()
    toy.stop("a")
    toy.stop("a")
    toy.stop("never was")
    assert (toy.running(), toy.step(), toy.held_tokens) == ([], [], 0)


# -- steps ---------------------------------------------------------------------------------------------------------


def test_prompts_ride_along_in_pieces_and_nobody_who_decodes_waits():
    toy = Toy(chunk=10, step_tokens=24)
    toy.start(Ask("a", ids_of(4), 30))
    toy.step()
    for name, seed in (("b", 1), ("c", 2), ("d", 3)):
        toy.start(Ask(name, ids_of(25, seed), 3))
    for _ in range(7):
        toy.step()
    assert toy.log[1:8] == [
        [("a", 1), ("b", 10), ("c", 10)],  # 21 of 24: d's ten do not fit
        [("a", 1), ("b", 10), ("c", 10)],
        [("a", 1), ("b", 5), ("c", 5), ("d", 10)],
        [("a", 1), ("b", 1), ("c", 1), ("d", 10)],
        [("a", 1), ("b", 1), ("c", 1), ("d", 5)],
        [("a", 1), ("d", 1)],
        [("a", 1), ("d", 1)],
    ]
    assert toy.counts.tokens == [sum(n for _, n in step) for step in toy.log]


def test_one_prompt_goes_on_however_many_decode():
    toy = Toy(chunk=4, step_tokens=4)
    for name in "abcdef":
        toy.start(Ask(name, ids_of(2, name), 40))
    for _ in range(6):
        toy.step()
    toy.start(Ask("late", ids_of(9), 1))
    toy.start(Ask("later", ids_of(5, 2), 1))
    for _ in range(3):
        toy.step()
    assert [dict(step).get("late") for step in toy.log[-3:]] == [4, 4, 1]
    assert all("later" not in dict(step) for step in toy.log[-3:-1])


def test_a_prompt_is_cut_the_same_whatever_runs_beside_it():
    def pieces(*company):
        toy = Toy(chunk=8, step_tokens=20)
        for number in range(*company):
            toy.start(Ask(f"other {number}", ids_of(11, number), 9))
        toy.start(Ask("it", ids_of(37, 99), 3))
        while "it" in toy.running():
            toy.step()
        return [dict(step)["it"] for step in toy.log if "it" in dict(step)]

    assert pieces(0) == pieces(1) == pieces(5) == [8, 8, 8, 8, 5, 1, 1]


def test_the_same_asks_take_the_same_steps():
    def run():
        toy = Toy(chunk=5, step_tokens=12)
        told = drain(toy, *[Ask(f"s{n}", ids_of(5 + 3 * n, n), 2 + n) for n in range(5)])
        return toy.log, told.ids, toy.counts

    assert run() == run()


def test_widths_are_padded_by_the_table_and_never_cut():
    toy = Toy(pad={1: 1, 2: 4, 3: 4}.get)
    toy.pad = lambda tokens: {2: 4, 3: 4}.get(tokens, 1)
    drain(toy, Ask("a", ids_of(2), 4), Ask("b", ids_of(9, 1), 3))
    assert toy.padded == [11, 4, 4, 1]
    assert toy.counts.tokens == [11, 2, 2, 1]  # what was asked for is counted, not what it was padded to


@pytest.mark.parametrize(("chunk", "step_tokens"), [(0, 10), (20, 10)])
def test_sizes_that_cannot_work_are_refused(chunk, step_tokens):
    with pytest.raises(ValueError, match="a step takes at least one chunk"):
        Toy(chunk=chunk, step_tokens=step_tokens)
