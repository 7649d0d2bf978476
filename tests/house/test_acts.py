"""Acting in a run: what is chosen reaches the work, is recorded, and is refused where it is not on offer."""

import queue
import threading
import time

import contract_toys as toys
import pytest

from workbench import records, runner
from workbench.offers import Desk, NotOffered
from workbench.pump import listen, pump
from workbench.system import Act, Note, Offer, Progress

KILL, ADD = Offer("kill", "Kill it", "instances"), Offer("add", "Add one")


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    toys.install(toys.OFFERING, monkeypatch)


def start(work, monkeypatch, **changes):
    toys.install(toys.but(work=work), monkeypatch)
    return runner.start("contract_toy", preset="tiny", **changes)


def until(true, what, limit_s=60):
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, f"{what} did not come in {limit_s} s"
        time.sleep(0.001)


def plain(config, heard, ends=None):
    """Yields until it is killed, through every kind of yield; `heard` is what each yield gave."""
    heard.append((yield Progress(0, 1, "begun")))
    heard.append((yield KILL))
    yield from [ADD, Note("a list can be sent nothing")]
    alive = True
    while alive and not (ends and ends.is_set()):
        time.sleep(0.001)
        yield from [Note("on")]
        got = yield Progress(0, 1, "on")
        heard.append(got)
        for name in got:
            yield Offer(name, "again", open=name != "kill")
            alive = alive and name != "kill"
    yield Progress(1, 1, "over")
    return toys.result(config, [1.0 if alive else 2.0], [(0.0, 0.1)])


def test_an_act_reaches_the_generator_whatever_it_yields_from(monkeypatch):
    heard = []
    run = start(lambda config: plain(config, heard), monkeypatch)
    until(lambda: len(run.offers) == 2, "the offers")
    run.act("kill")
    run.wait(60)
    assert (run.state, run.error) == ("done", None)
    assert run.result.values == [2.0]
    assert [got for got in heard if got] == [("kill",)]
    assert set(heard) == {(), ("kill",)}  # nothing chosen is an empty tuple, never None


def test_control_without_acting_the_outcome_differs(monkeypatch):
    ends, heard = threading.Event(), []
    run = start(lambda config: plain(config, heard, ends), monkeypatch)
    until(lambda: len(heard) > 5, "its steps")
    ends.set()
    assert run.wait(60).result.values == [1.0]
    assert set(heard) == {()}
    assert not [e for _, e in run.events if isinstance(e, Act)]


def test_plain_iteration_gives_none():
    heard = []
    work = plain(toys.Toy(), heard)
    for _ in range(4):
        next(work)
    assert heard == [None, None]
    work.close()


def test_the_act_stands_before_what_followed_from_it_and_in_the_record(monkeypatch):
    run = start(lambda config: plain(config, []), monkeypatch)
    until(lambda: "add" in [o.name for o in run.offers], "the offer")
    run.act("add")
    until(lambda: run.waiting == frozenset() and "add" in [o.name for o in run.offers], "the answer")
    run.act("add")  # it is on offer again
    until(lambda: not run.waiting, "the answer")
    run.act("kill")
    said = [e for _, e in run.wait(60).events if isinstance(e, Offer | Act)]
    again = Offer("add", "again")
    assert said == [KILL, ADD, Act("add", "Add one"), again, Act("add", "again"), again, Act("kill", "Kill it"),
                    Offer("kill", "again", open=False)]  # fmt: skip
    times = [at for at, _ in run.events]
    assert times == sorted(times)
    stored = records.history("contract_toy")[0].events()
    assert stored == [(round(at, 4), event) for at, event in run.events]


def refused(run, name, said):
    before = len([e for _, e in run.events if isinstance(e, Act)])
    with pytest.raises(NotOffered, match=said) as caught:
        run.act(name)
    assert isinstance(caught.value, ValueError)
    assert len([e for _, e in run.events if isinstance(e, Act)]) == before


def test_what_is_not_on_offer_is_refused(monkeypatch):
    fresh = runner.Run(toys.OFFERING, toys.OFFERING.make("tiny"))
    refused(fresh, "kill", "this run of contract_toy was not started")
    gate = threading.Event()

    def work(config):
        yield Progress(0, 1, "nothing yet")
        yield KILL
        yield ADD
        gate.wait(60)  # deaf for a while
        return (yield from plain(config, []))

    run = start(work, monkeypatch)
    until(lambda: len(run.offers) == 2, "the offers")
    refused(run, "nosuch", "does not offer 'nosuch' now; it offers kill, add")
    run.act("kill")
    assert run.waiting == {"kill"}
    assert run.offers == (ADD,)
    refused(run, "kill", "'kill' was chosen before; this run of contract_toy has not answered yet")
    gate.set()  # the first yields of `plain` hear and do nothing, then it offers anew
    until(lambda: KILL in run.offers, "the offer")
    run.act("kill")
    run.wait(60)
    refused(run, "add", r"this run of contract_toy has ended \(done\)")
    assert run.offers == ()


def test_a_cancelled_run_takes_no_more(monkeypatch):
    run = start(lambda config: plain(config, []), monkeypatch)
    until(lambda: run.offers, "the offers")
    run.cancel()
    refused(run, "kill", "was cancelled: nothing can be done in it any more")
    run.wait(60)
    refused(run, "kill", "was cancelled")


@pytest.mark.parametrize(
    ("last", "why"),
    [([], "the run had ended"), ([Offer("kill", "Kill it", open=False)], "it had been taken back")],
    ids=["ended", "taken back"],
)
def test_a_choice_that_comes_too_late_is_told_and_no_act(last, why, monkeypatch):
    inside, gate = threading.Event(), threading.Event()

    def work(config):
        yield KILL
        inside.set()
        gate.wait(60)
        for event in last:
            yield event
            yield Progress(0, 1, "later")
        return toys.result(config, [1.0], [(0.0, 0.1)])

    run = start(work, monkeypatch)
    assert inside.wait(60)  # nothing can be sent to it there
    run.act("kill")
    gate.set()
    run.wait(60)
    assert run.state == "done"
    assert Note(f"not done: Kill it; {why}", "warning") in [e for _, e in run.record.events()]
    assert not [e for _, e in run.events if isinstance(e, Act)]


def test_one_of_many_threads_gets_an_offer(monkeypatch):
    """Twenty threads press the same button a hundred times: each time it is offered, one of them has it."""
    run = start(lambda config: plain(config, []), monkeypatch)
    until(lambda: len(run.offers) == 2, "the offers")
    taken, odd = [], []

    def press():
        for _ in range(100):
            try:
                run.act("add")
                taken.append(1)
            except NotOffered:
                pass
            except BaseException as error:  # looked at below
                odd.append(error)

    threads = [threading.Thread(target=press) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    until(lambda: not run.waiting, "the last answer")
    run.act("kill")
    said = [e for _, e in run.wait(60).events if isinstance(e, Offer | Act) and e.name == "add"][1:]
    assert odd == []
    assert taken
    assert len([e for e in said if isinstance(e, Act)]) == len(taken)
    assert [type(e) for e in said] == [Act, Offer] * len(taken)


def threaded(config, hears=True):
    asked = queue.SimpleQueue()

    def body(say, stop):
        say(KILL)
        while not stop.is_set():
            try:
                name = asked.get(timeout=0.02)
            except queue.Empty:
                continue
            say(Offer(name, "Kill it", open=False))
            say(Progress(1, 1, "killed"))
            return toys.result(config, [2.0], [(0.0, 0.1)])
        raise RuntimeError("stopped")

    return (yield from pump(body, asked.put if hears else None))


def test_a_thread_hears_by_the_pump(monkeypatch):
    run = start(threaded, monkeypatch)
    until(lambda: run.offers, "the offer")
    run.act("kill")
    assert run.wait(60).result.values == [2.0]


def test_a_pump_that_nobody_hears_says_so(monkeypatch):
    run = start(lambda config: threaded(config, hears=False), monkeypatch)
    until(lambda: run.offers, "the offer")
    run.act("kill")
    run.wait(60)
    assert run.state == "failed"
    assert "'kill' was offered and chosen, but nobody hears of it: give pump a `hear`" in str(run.error)


def test_listen_hands_on_all_and_closes_what_it_drives():
    heard, freed = [], []

    def inner():
        try:
            yield Progress(0, 1)
            yield from [KILL, ADD]
            return 7
        finally:
            freed.append(True)

    work = listen(inner(), heard.append)
    assert next(work) == Progress(0, 1)
    assert work.send(("a", "b")) == KILL
    assert work.send(()) == ADD
    with pytest.raises(StopIteration) as end:
        work.send(("c",))
    assert (heard, end.value.value, freed) == (["a", "b", "c"], 7, [True])
    half = listen(inner(), heard.append)
    next(half)
    half.close()
    assert freed == [True, True]


def test_offers_that_are_taken_back_while_chosen_leave_nothing_behind():
    desk = Desk("a run")
    desk.take(KILL)
    desk.choose("kill")
    desk.take(Offer("kill", "Kill it", open=False))
    assert desk.fetch() == [Note("not done: Kill it; it had been taken back", "warning")]
    assert (desk.fetch(), desk.waiting, desk.close("has ended")) == ([], frozenset(), [])


def test_acting_changes_what_it_says_and_nothing_else():
    run = runner.start("contract_toy", preset="tiny", steps=1000)
    until(lambda: run.offers, "the offers")
    run.act("more")
    acted = run.wait(60).result
    plain_run = runner.start("contract_toy", preset="tiny", steps=1000).wait(60).result
    assert acted.values[0] == plain_run.values[0] + 100.0
    assert acted.values[1:] == plain_run.values[1:]
