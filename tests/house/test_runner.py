"""A run: states, cancel, failure, the call as code and back."""

import threading

import contract_toys as toys
import pytest

import workbench as wb
from workbench import runner
from workbench.system import Note, Progress


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
    run.start().wait(60)
    assert run.state == "done"
    with pytest.raises(RuntimeError):
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
    with pytest.raises(KeyError, match="no system is called 'nosuch'; there are cake"):
        wb.run("nosuch")
    with pytest.raises(ValueError, match="no preset 'nosuch'; it has tiny, small, paper"):
        wb.run("contract_toy", preset="nosuch")
    with pytest.raises(ValueError, match="no setting stps; it has seed"):
        wb.run("contract_toy", stps=1)
    with pytest.raises(ValueError, match="steps\n"):
        wb.run("contract_toy", steps=-1)
    with pytest.raises(ValueError, match="a config or a preset"):
        wb.run("contract_toy", toys.Toy(), preset="tiny")
    with pytest.raises(TypeError, match="takes a Toy, not a Config"):
        wb.run("contract_toy", toys.Config())


def test_code_and_back():
    config = toys.GOOD.make("tiny", factor=None, mode="one", check=False, sizes=(3, 4, 5))
    code = runner.to_code(toys.GOOD, config, "open")
    assert code == ('wb.open("contract_toy", preset="tiny", factor=None, check=False, mode=\'one\', sizes=(3, 4, 5))')
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
        ("wb.run('contract_toy', steps=0)", "steps"),
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
