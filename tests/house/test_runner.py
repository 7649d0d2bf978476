"""A run: states, cancel, failure, the call as code and back."""

import threading

import contract_toys as toys
import pytest

import workbench as wb
from workbench import runner
from workbench.system import NAMES, Note, Progress


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    toys.install(toys.GOOD, monkeypatch)


def install(work, monkeypatch):
    toys.install(toys.but(work=work), monkeypatch)


def test_run_returns_the_result_and_hands_on_events(capsys):
    heard = []
    result = wb.run("contract_toy", preset="tiny", seed=2, on_event=heard.append)
    assert result.config == toys.GOOD.make("tiny", seed=2)
    assert sum(isinstance(e, Progress) for e in heard) == 21
    said = capsys.readouterr()
    assert said.out == ""
    assert "contract_toy" in said.err


def test_nothing_starts_in_the_constructor():
    run = runner.Run(toys.GOOD, toys.GOOD.make("tiny"))
    assert run.state == "ready"
    assert run.events == []
    assert not any("contract_toy" in t.name for t in threading.enumerate())
    with pytest.raises(RuntimeError, match=r"this run of contract_toy was not started: call start\(\) first"):
        run.wait(5)
    run.start().wait(60)
    assert run.state == "done"


def test_a_second_start_leaves_a_running_run_alone():
    run = runner.Run(toys.GOOD, toys.GOOD.make("paper", steps=200)).start()
    begun, clock = run._begun, run._clock
    with pytest.raises(RuntimeError, match="was started before; make another one"):
        run.start()
    assert (run._begun, run._clock) == (begun, clock)
    assert run.wait(60).state == "done"
    times = [at for at, _ in run.events]
    assert times == sorted(times)
    with pytest.raises(RuntimeError, match="was started before"):
        run.start()


def test_cancel_frees_on_the_draining_thread(monkeypatch):
    freed = []

    def work(config):
        try:
            yield Progress(0, 1, "started")
            while True:
                yield Note("still at it")
        finally:
            freed.append(threading.current_thread().name)

    install(work, monkeypatch)
    run = wb.start("contract_toy", preset="tiny")
    with pytest.raises(TimeoutError, match=r"contract_toy is still at 'started' after 0\.2 s"):
        run.wait(0.2)
    run.cancel()
    run.cancel()  # harmless
    run.wait(60)
    assert run.state == "cancelled"
    assert run.result is None
    assert run.error is None
    assert freed == ["workbench-contract_toy"]
    run.cancel()
    assert run.state == "cancelled"


def test_a_cancelled_run_raises_in_the_blocking_call():
    started = []

    def cancel_it(event):
        if not started:
            started.append(event)
            going.cancel()

    going = wb.start("contract_toy", preset="paper")
    with pytest.raises(runner.Cancelled, match="contract_toy was cancelled"):
        runner.follow(going, cancel_it)


def test_ctrl_c_cancels(monkeypatch):
    def interrupt(event):
        raise KeyboardInterrupt

    going = wb.start("contract_toy", preset="paper")
    with pytest.raises(KeyboardInterrupt):
        runner.follow(going, interrupt)
    assert going.state == "cancelled"


def test_an_on_event_that_fails_cancels(monkeypatch):
    class Odd(BaseException):
        pass

    for error in (ZeroDivisionError("mine"), Odd("mine")):
        going = wb.start("contract_toy", preset="paper")
        with pytest.raises(type(error), match="mine"):
            runner.follow(going, lambda event, error=error: (_ for _ in ()).throw(error))
        assert going.state == "cancelled"


def test_ctrl_c_is_told_even_where_the_run_does_not_stop_in_time(monkeypatch):
    release = threading.Event()

    def deaf(config):
        yield Progress(0, 1, "going")
        release.wait(60)
        yield Progress(0, 1, "going")

    def interrupt(event):
        raise KeyboardInterrupt

    install(deaf, monkeypatch)
    monkeypatch.setattr(runner, "STOP_S", 0.2)
    going = wb.start("contract_toy", preset="tiny")
    try:
        with pytest.raises(KeyboardInterrupt):
            runner.follow(going, interrupt)
        assert going.state == "running"
    finally:
        release.set()
        going.wait(60)
    assert going.state == "cancelled"


@pytest.mark.parametrize(("value", "name"), [(None, "NoneType"), (3, "int"), (Note("x"), "Note")])
def test_a_work_without_a_result_failed_and_was_not_cancelled(value, name, monkeypatch):
    def work(config):
        yield Progress(1, 1, "all done")
        return value

    install(work, monkeypatch)
    run = wb.start("contract_toy", preset="tiny").wait(60)
    assert (run.state, run.result) == ("failed", None)
    assert run.record.state == "failed"
    with pytest.raises(TypeError, match=f"the work of contract_toy returned a {name}, not a ToyResult"):
        wb.run("contract_toy", preset="tiny")


@pytest.mark.parametrize("error", [RuntimeError("no room"), SystemExit(3), KeyboardInterrupt()])
def test_failure_is_kept_and_raised(error, monkeypatch):
    def work(config):
        yield Progress(0, 1, "before")
        raise error

    install(work, monkeypatch)
    run = wb.start("contract_toy", preset="tiny").wait(60)
    assert run.state == "failed"
    assert run.error is error
    with pytest.raises(type(error)):
        wb.run("contract_toy", preset="tiny")


def test_a_work_that_is_no_generator_fails(monkeypatch):
    def work(config):
        raise RuntimeError("before the first step")

    install(work, monkeypatch)
    run = wb.start("contract_toy", preset="tiny").wait(60)
    assert (run.state, str(run.error)) == ("failed", "before the first step")


def test_failure_while_cleaning_up_is_kept(monkeypatch):
    def work(config):
        try:
            while True:
                yield Note("on")
        finally:
            raise OSError("cannot remove the store")

    install(work, monkeypatch)
    run = wb.start("contract_toy", preset="tiny")
    run.cancel()
    run.wait(60)
    if run.events:  # closed before its first step, a generator has nothing to clean up
        assert run.state == "failed"
        assert "cannot remove" in str(run.error)


def test_wrong_calls_are_named():
    with pytest.raises(KeyError, match=f"no system is called 'nosuch'; there are {', '.join(NAMES)}"):
        wb.run("nosuch")
    with pytest.raises(ValueError, match="no preset 'nosuch'; it has tiny, small, paper"):
        wb.run("contract_toy", preset="nosuch")
    with pytest.raises(ValueError, match="no setting stps; it has seed"):
        wb.run("contract_toy", stps=1)
    with pytest.raises(
        ValueError, match=r"^contract_toy: steps: Input should be greater than or equal to 1 \(you gave -1\)$"
    ):
        wb.run("contract_toy", steps=-1)
    with pytest.raises(ValueError, match="a config or a preset"):
        wb.run("contract_toy", toys.Toy(), preset="tiny")
    with pytest.raises(ValueError, match=r"^contract_toy: steps: .* \(you gave 0\)$"):
        wb.run("contract_toy", toys.Toy(), steps=0)
    with pytest.raises(TypeError, match="takes a Toy, not a Config"):
        wb.run("contract_toy", toys.Config())


def test_code_and_back():
    config = toys.GOOD.make("tiny", factor=None, mode="one", check=False, sizes=(3, 4, 5))
    code = runner.to_code(toys.GOOD, config, "open")
    assert code == 'wb.open("contract_toy", preset="tiny", factor=None, check=False, mode="one", sizes=(3, 4, 5))'
    assert runner.from_code(code) == (toys.GOOD, config)
    assert runner.from_code(runner.to_code(toys.GOOD, toys.GOOD.presets["paper"]))[1].steps == 500


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("", "not a call"),
        ("wb.run(", "not a call"),
        ("1 + 1", "not a call"),
        ("run('contract_toy')", "not a call"),
        ("wb.run('contract_toy', steps=__import__('os').getpid())", "not a call"),
        ("wb.history('contract_toy')", "wb.history takes no config"),
        ("wb.run('nosuch')", "no system is called 'nosuch'"),
        ("wb.run(['contract_toy'])", "not a call|no system|unhashable"),
        ("wb.run('contract_toy', nosuch=1)", "no setting nosuch"),
        ("wb.run('contract_toy', steps=0)", r"^contract_toy: steps: .* \(you gave 0\)$"),
        ("wb.run('contract_toy', preset=[1])", r"preset: must be a name of tiny, small, paper, not \[1\]"),
        ("wb.run('contract_toy', **{'steps': 3})", r"write the arguments out, instead of \*\*"),
        ("wb.run('contract_toy', steps=3, steps=4)", "steps is given twice"),
        ("wb.run('contract_toy', steps={[]: 1})", "not a call"),
        ("wb.run('contract_toy', self=1)", "no setting self"),
    ],
)
def test_code_that_is_no_call_is_named(code, said):
    with pytest.raises(ValueError, match=said):
        runner.from_code(code)


def test_catalogue_is_read_only():
    with pytest.raises(TypeError):
        wb.systems()["x"] = 1
    assert "cake" in dir(wb) or "run" in dir(wb)
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        wb.nosuch  # noqa: B018
