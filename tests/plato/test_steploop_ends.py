"""How sequences of the step loop end: budgets, stop ids and texts, overflow, failures, and what a constraint says."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from loop_tools import END, Rules, Toy, alone, drain, ids_of

from workbench.plato.engine import Ask, Constraint, ContextOverflow, EngineError

# -- ends ----------------------------------------------------------------------------------------------------------


def test_a_budget_is_exact():
    told = drain(Toy(), *[Ask(f"s{n}", ids_of(5, n), n) for n in (1, 2, 7)])
    assert {name: len(ids) for name, ids in told.ids.items()} == {"s1": 1, "s2": 2, "s7": 7}
    assert set(told.ended.values()) == {"budget"}


def test_a_stop_id_ends_an_answer_and_is_no_part_of_it():
    toy = Toy(says={"a": (1, 2, END, 3), "b": (1, 2, END, 3)})
    told = drain(toy, Ask("a", ids_of(5), 9), Ask("b", ids_of(5, 1), 4, whole=True))
    assert (told.ids["a"], told.ended["a"]) == ((1, 2), "stop")
    assert (told.ids["b"], told.ended["b"]) == ((1, 2, END, 3), "budget")
    assert toy.counts.decoded == 3 + 4


@pytest.mark.parametrize(
    ("said", "stop", "kept"),
    [
        ("ab\n\ncd", ("\n\n",), "ab"),
        ("ab\nc\n\nd", ("\n\n",), "ab\nc"),
        ("ab Part 2", ("zz", " Part "), "ab"),
        ("x.\n|y|", ("|", "\n|"), "x."),  # the first of them in the text counts
        ("\n\nab", ("\n\n",), ""),
    ],
)
def test_stop_texts_are_dropped_however_many_tokens_they_took(said, stop, kept):
    toy = Toy()
    toy.says["a"] = toy.says["b"] = tuple(toy.encode(said))
    told = drain(toy, Ask("a", ids_of(5), 20, stop=stop), Ask("b", ids_of(5, 1), len(said), stop=stop, whole=True))
    assert (toy.decode(told.ids["a"]), told.ended["a"]) == (kept, "stop")
    assert (toy.decode(told.ids["b"]), told.ended["b"]) == (said, "budget")
    said_of_a = sum(len(out.ids) for out in told.outs["a"])
    assert said_of_a - len(kept) == told.outs["a"][-1].dropped > 0


def test_a_stop_text_of_the_prompt_does_not_count():
    toy = Toy()
    prompt = tuple(toy.encode("ab\n"))
    toy.says["a"] = tuple(toy.encode("\nab"))
    told = drain(toy, Ask("a", prompt, 3, stop=("\n\n",)))
    assert (toy.decode(told.ids["a"]), told.ended["a"]) == ("\nab", "budget")


def test_overflow_is_refused_before_any_work():
    toy = Toy(room=30)
    drain(toy, Ask("fits", ids_of(20), 10))
    before = (toy.passes, toy.held_tokens, list(toy.forks), toy.counts.reused)
    with pytest.raises(ContextOverflow, match=r"b needs 31 positions, 20 for its prompt and 11 .* has 30: shorten"):
        toy.start(Ask("b", ids_of(20), 11))
    assert (toy.passes, toy.held_tokens, toy.forks, toy.counts.reused) == before
    assert toy.running() == []


def test_names_and_tokens_are_checked():
    toy = Toy()
    toy.start(Ask("a", ids_of(5), 2))
    with pytest.raises(ValueError, match="a is still running"):
        toy.start(Ask("a", ids_of(5), 2))
    with pytest.raises(ValueError, match="no token 64"):
        toy.start(Ask("b", (64,), 2))
    drain(toy)
    assert drain(toy, Ask("a", ids_of(5), 2)).ended == {"a": "budget"}  # free again
    with pytest.raises(ValueError, match="at least one token"):
        Ask("none", (), 1)
    with pytest.raises(ValueError, match="0 tokens or more"):
        Ask("less", (1,), -1)


def test_nan_fails_one_sequence_and_leaves_the_others():
    toy = Toy(nan=("a",))
    told = drain(toy, Ask("a", ids_of(5), 9), Ask("b", ids_of(6, 1), 3))
    assert (told.ended["a"], told.ids["a"]) == ("failed", ())
    assert "NaN after 5 tokens" in told.said["a"]
    assert (told.ended["b"], told.ids["b"]) == ("budget", alone(ids_of(6, 1), 3))
    assert toy.held_tokens == 6 + 2  # nobody begins with KV that gave NaN


def test_a_pass_that_fails_is_the_engines_error():
    class Broken(Toy):
        def _run(self, pieces, width):
            raise RuntimeError("out of memory")

    with pytest.raises(EngineError, match="a step of 1 rows and 5 tokens failed: out of memory"):
        drain(Broken(), Ask("a", ids_of(5), 1))


def test_nothing_is_left_after_close():
    toy = Toy()
    drain(toy, Ask("a", ids_of(5), 2))
    toy.start(Ask("b", ids_of(5), 2))
    toy.close()
    toy.close()
    assert (toy.running(), toy.held_tokens) == ([], 0)
    with pytest.raises(EngineError, match="closed"):
        toy.start(Ask("c", ids_of(5), 2))


# -- constraints ---------------------------------------------------------------------------------------------------

ANY = tuple(range(50))


def ruled(steps, **more):
    return Toy(matchers={"rules": lambda: Rules(steps, **more)})


def asked(budget, prompt=5):
    return Ask("a", ids_of(prompt), budget, Constraint("rules"))


def test_forced_tokens_take_no_step():
    steps = [(1,), (2,), ANY, (3,), (4,), (5,), ANY]
    toy, slow = ruled(steps), ruled(steps, forced=False)
    told, same = drain(toy, asked(20)), drain(slow, asked(20))
    assert told.ids["a"] == same.ids["a"]
    assert told.ids["a"][:2] == (1, 2)
    assert told.ids["a"][3:6] == (3, 4, 5)
    assert told.ended["a"] == same.ended["a"] == "constraint"
    assert (toy.counts.forced, toy.counts.decoded, toy.passes) == (5, 2, 2)
    assert (slow.counts.forced, slow.counts.decoded, slow.passes) == (0, 7, 7)
    assert toy.log == [[("a", 7)], [("a", 4)]]  # the prompt with two forced ones, then a chosen one with three
    assert toy.counts.prefilled == told.prefilled["a"] == 5  # forced ones are no prompt


def test_a_choice_stays_within_what_is_allowed():
    toy = ruled([(7, 9), (1, 3)])
    toy.says["a"] = (9, 5)  # 5 is not allowed: the best of the others is
    told = drain(toy, asked(20))
    assert told.ids["a"][0] == 9
    assert told.ids["a"][1] in (1, 3)


@pytest.mark.parametrize(("budget", "ended"), [(1, "budget"), (2, "budget"), (4, "budget"), (6, "constraint")])
def test_forced_tokens_count_against_the_budget(budget, ended):
    told = drain(ruled([(1,), (2,), ANY, (3,), (4,), (5,)]), asked(budget))
    assert (len(told.ids["a"]), told.ended["a"]) == (budget, ended)


def test_an_answer_without_a_choice_takes_no_pass_at_all():
    toy = ruled([(1,), (2,), (3,)])
    told = drain(toy, asked(20))
    assert (told.ids["a"], told.ended["a"], toy.passes) == ((1, 2, 3), "constraint", 0)
    assert (told.reused["a"], told.prefilled["a"]) == (0, 0)


def test_a_matchers_stop_token_is_no_part_of_the_answer():
    toy = ruled([ANY, (*ANY, END), ANY])
    toy.says["a"] = (8, END)
    told = drain(toy, asked(20))
    assert (told.ids["a"], told.ended["a"]) == ((8,), "constraint")


def test_a_matcher_that_has_no_way_on_fails_its_sequence():
    class Stuck(Rules):
        def pick(self, logits, choose):
            raise ValueError("nothing may follow")

    toy = Toy(matchers={"rules": lambda: Stuck([ANY])})
    told = drain(toy, asked(5), Ask("b", ids_of(4, 3), 2))
    assert (told.ended["a"], told.said["a"]) == ("failed", "nothing may follow")
    assert told.ended["b"] == "budget"


def test_forced_tokens_reuse_kv_as_a_prompt_does():
    """A second sequence under the same grammar finds the first one's prompt and its forced tokens."""
    toy = ruled([(1,), (2,), ANY, ANY])
    drain(toy, asked(20))
    told = drain(toy, asked(20))
    assert (told.reused["a"], told.prefilled["a"]) == (5, 0)
    assert toy.log[-2] == [("a", 1)]  # the last forced one alone
