"""The judge is asked in both orders, and one that only likes the first place wins nothing."""

import pytest

from workbench.lm.tokenizer import ByteTokenizer
from workbench.plato.engine import EngineError, Out
from workbench.plato.pairwise import Judged, judge_pair, tally

GOOD, BAD = "a good answer", "a bad answer"


class Judge:
    """An engine whose model replies by a rule on the prompt."""

    def __init__(self, rule):
        self.rule, self.rows, self.tokenizer = rule, {}, ByteTokenizer()

    def chat(self, system, user):
        return self.tokenizer.encode(user)

    def decode(self, ids):
        return self.tokenizer.decode(ids)

    def start(self, ask):
        self.rows[ask.name] = ask

    def running(self):
        return list(self.rows)

    def stop(self, name):
        self.rows.pop(name, None)

    def step(self):
        name = next(iter(self.rows), None)
        if name is None:
            return []
        reply = self.rule(self.decode(self.rows[name].ids))
        if reply is None:
            return []
        self.rows.pop(name)
        if reply == "fail":
            return [Out(name, (), "failed", "no memory")]
        return [Out(name, tuple(self.tokenizer.encode(reply)), "stop")]


def fair(prompt):
    return "A" if prompt.index(GOOD) < prompt.index(BAD) else "B"


def test_a_fair_judge_finds_the_better_answer_wherever_it_stands():
    assert judge_pair(Judge(fair), "q", GOOD, BAD) == Judged(("one", "one"), (len(GOOD), len(BAD)))
    assert judge_pair(Judge(fair), "q", BAD, GOOD).better == "two"


def test_a_judge_that_likes_the_first_place_wins_nothing():
    judged = judge_pair(Judge(lambda prompt: "A"), "q", GOOD, BAD)
    assert judged.swayed
    assert judged.better == "tie"


@pytest.mark.parametrize(("reply", "found"), [("tie", "tie"), (" B.\n", "tie"), ("A or B", "unclear"), ("", "unclear")])
def test_replies(reply, found):
    assert judge_pair(Judge(lambda prompt: reply), "q", GOOD, BAD).better == found


def test_failures_are_named_and_leave_nothing_running():
    for rule, cause in ((lambda p: "fail", "failed: no memory"), (lambda p: None, "no answer within")):
        judge = Judge(rule)
        with pytest.raises(EngineError, match=cause):
            judge_pair(judge, "q", GOOD, BAD, limit_s=0.05)
        assert judge.running() == []


def test_a_tally():
    pairs = [
        Judged(("one", "one"), (30, 10)),
        Judged(("one", "two"), (10, 10)),
        Judged(("one", "tie"), (10, 10)),
        Judged(("two", "two"), (10, 10)),
        Judged(("one", "one"), (10, 10)),
        Judged(("one", "unclear"), (10, 10)),
    ]
    found = tally(pairs)
    assert (found.pairs, found.unclear) == (6, 1)
    assert found.net == pytest.approx(1 / 5)
    assert found.swayed == pytest.approx(1 / 5)
    assert found.longer == pytest.approx(80 / 60)
    with pytest.raises(ValueError, match="none were judged"):
        tally([])
