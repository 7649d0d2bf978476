"""What every system must hold to. Each check takes a `Subject` (a system and its runs) and asserts one rule."""

import contextlib
import gc
import itertools
import json
import math
import re
import tempfile
import threading
import time
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import get_args

import pandas as pd
import psutil
import pytest
from offer_checks import offers

from workbench import backends, records, runner, theme
from workbench.system import MOST_VERTICES, Badge, ConfigError, Note, Offer, Point, Progress, Span, Text, Vertex

WAIT_S = 120.0  # of a tiny run on a busy machine; a hang is named by run.wait
CANCEL_S = 2.0
GAP_S = 1.0  # events should come every 0.1 s; over 1 s nobody can cancel
FIGURE_BYTES = 200_000
STATES = ("waiting", "running", "done", "cut")
COUNTS = ("tokens", "chunks", "requests", "blocks", "grains", "steps")  # words that are a unit


class Subject:
    """A system, and the runs of its tiny preset that the checks look at: made once, when first needed."""

    def __init__(self, system):
        self.system = system

    def run(self, **changes):
        run = runner.Run(self.system, self.system.make("tiny", **changes)).start().wait(WAIT_S)
        if run.error is not None:
            raise run.error
        return run

    @cached_property
    def first(self):
        return self.run()

    @cached_property
    def again(self):
        return self.run()

    @cached_property
    def other_seed(self):
        return self.run(seed=self.first.config.seed + 1)

    @property
    def result(self):
        return self.first.result


def presets(s):
    for name in ("tiny", "small", "paper"):
        assert name in s.system.presets, f"no preset {name}"
    for name, config in s.system.presets.items():
        assert type(config) is s.system.config, f"preset {name} is a {type(config).__name__}"
        assert s.system.make(name) == config


def baselines(s):
    assert s.system.baselines, "a system is shown beside something"
    for name, changes in s.system.baselines.items():
        assert s.system.make("tiny", **changes) != s.system.make("tiny"), f"baseline {name} changes nothing"


def config_json(s):
    for config in s.system.presets.values():
        assert s.system.config.model_validate_json(config.model_dump_json()) == config
        assert s.system.config.model_validate(json.loads(json.dumps(config.model_dump(mode="json")))) == config


def descriptions(s):
    for name, field in s.system.config.model_fields.items():
        assert field.description, f"field {name} has no description"


def wrong_field_named(s):
    for name in s.system.config.model_fields:
        with pytest.raises(ConfigError) as caught:
            s.system.make("tiny", **{name: object()})
        assert any(e["loc"][:1] == (name,) for e in caught.value.errors()), f"the error does not name {name}"
        for line in str(caught.value).splitlines():
            assert re.match(rf"{s.system.name}: {name}: .+ \(you gave <object object at 0x\w+>\)$", line), line
    with pytest.raises(ValueError, match="no setting nonsense"):
        s.system.make("tiny", nonsense=1)
    with pytest.raises(ValueError, match="no preset 'nonsense'"):
        s.system.make("nonsense")


def code(s):
    for name, config in s.system.presets.items():
        again, made = runner.from_code(runner.to_code(s.system, config))
        assert (again, made) == (s.system, config), name
    for changes in s.system.baselines.values():
        config = s.system.make("tiny", seed=7, **changes)
        assert runner.from_code(runner.to_code(s.system, config))[1] == config


def same_seed(s):
    assert s.first.result.fingerprint() == s.again.result.fingerprint()


def another_seed(s):
    assert s.first.result.fingerprint() != s.other_seed.result.fingerprint(), "the seed decides nothing"


def progress(s):
    seen = [e for _, e in s.first.events if isinstance(e, Progress)]
    assert seen, "no progress"
    shares = [p.done / p.total for p in seen]
    assert all(0 <= share <= 1 + 1e-9 for share in shares), shares  # sums of parts may be off in the last digit
    back = [(a, b) for a, b in itertools.pairwise(shares) if b < a - 1e-9]
    assert not back, f"progress went back: {back}"
    assert shares[-1] >= 1 - 1e-9, f"the last progress is not the whole: {seen[-1]}"


def gaps(s):
    worst = []
    for run in (s.first, s.again):  # the better of two: a machine may stall once
        times = [0.0, *(at for at, _ in run.events)]
        worst.append(max(after - before for before, after in itertools.pairwise(times)))
    assert min(worst) <= GAP_S, f"{min(worst):.2f} s without an event in both runs"
    return min(worst)


def events(s):
    for at, event in s.first.events:
        assert isinstance(event, Progress | Point | Span | Note | Vertex | Text | Offer), event  # an Act is the run's
        assert at >= 0
        if isinstance(event, Point):
            assert math.isfinite(event.x), event
            assert math.isfinite(event.y), event


def graph(s):
    """Of a graph that a run tells: needs are told before, shares are shares, and in the end nothing is left open."""
    latest = {}
    for _, event in s.first.events:
        if isinstance(event, Text):
            assert event.name, event
            assert event.added, event
        if not isinstance(event, Vertex):
            continue
        assert event.name.strip(), event
        assert event.label.strip(), event
        assert event.state in STATES, event
        assert 0 <= event.share <= 1, event
        assert len(set(event.needs)) == len(event.needs), event
        order = list(latest)
        before = order[: order.index(event.name)] if event.name in latest else order
        assert set(event.needs) <= set(before), f"{event} needs what was not told before it"
        assert event.weight is None or event.weight > 0, event
        latest[event.name] = event
    assert len(latest) <= MOST_VERTICES, f"{len(latest)} vertices cannot be drawn"
    left = [v for v in latest.values() if v.state not in ("done", "cut")]
    assert not left, f"the run has ended, and {left[0]} has not"


def spans(s):
    heard = [e for _, e in s.first.events if isinstance(e, Span)]
    end = math.inf if s.result.provenance.backend == "sim" else s.first.seconds + 0.05  # a virtual clock has no end
    for span in [*heard, *s.result.spans()]:
        assert 0 <= span.start_s <= span.end_s <= end, span
        assert span.lane, span
        assert span.label, span
        assert span.kind, span
        assert all(isinstance(value, float | int | str) for value in span.why.values()), span
    assert s.result.spans(), "no timeline"


def summary(s):
    numbers = s.result.summary()
    assert numbers
    for name, value in numbers.items():
        assert isinstance(value, int | float), name
        assert math.isfinite(value), f"{name} is {value}"
        assert s.result.provenance.badges.get(name) in get_args(Badge), f"{name} has no badge"


def provenance(s):
    told = s.result.provenance
    assert told.backend in s.system.backends
    assert told.device
    assert told.commit
    assert told.versions["python"]
    assert datetime.fromisoformat(told.started_at).tzinfo is not None, "started_at names no time zone"
    assert s.result.config == s.first.config


def sentence(s):
    said = s.result.sentence()
    assert len(said) > 20, said
    assert said.endswith("."), said
    for claim in s.result.claims():
        assert claim.what, claim
        assert claim.source, claim


def figure(s):
    _drawn(s.result.figure())


def preview(s):
    """The model that follows the form: a figure like any other, for every preset and every baseline of tiny."""
    if s.system.preview is None:
        return
    configs = [s.system.make("tiny", **changes) for changes in s.system.baselines.values()]
    for config in [*s.system.presets.values(), *configs]:
        try:
            fig = s.system.preview(config)
        except Exception as error:
            raise AssertionError(f"no preview of {config!r}: {type(error).__name__}: {error}") from error
        _drawn(fig)


def details(s):
    """Whoever asks why of a span is told in a sentence."""
    if s.system.detail is None:
        return
    for span in [*s.result.spans(), *(e for _, e in s.first.events if isinstance(e, Span))]:
        try:
            said = s.system.detail(span)
        except Exception as error:
            raise AssertionError(f"nothing explains {span}: {type(error).__name__}: {error}") from error
        assert isinstance(said, str), f"{span} is explained by a {type(said).__name__}"
        assert len(said.split()) >= 3, f"{span} is explained by {said!r}"
        assert not re.search(r"\b(nan|inf|None)\b", said), f"{span} is explained by {said!r}"


def _drawn(fig):
    """A figure that anyone can read: title, axes with units, its text alternative, and small."""
    assert theme.problems(fig) == []
    size = len(fig.to_json().encode())
    assert size < FIGURE_BYTES, f"the figure is {size} bytes of JSON"
    for axis in (*fig.select_xaxes(), *fig.select_yaxes()):
        title = axis.title.text or ""
        if axis.visible is False or not title or axis.type == "category" or axis.ticktext is not None:
            continue
        assert re.search(r"\(.+\)", title) or any(word in title for word in COUNTS), f"axis {title!r} has no unit"


def frame(s):
    table = s.result.to_frame()
    assert isinstance(table, pd.DataFrame)
    assert len(table) > 0, "an empty table"
    assert list(table.columns) == list(s.system.columns), "columns() and to_frame() differ"
    assert all(s.system.columns.values()), "a column without a meaning"


def disk(s):
    """A result reopens equal: itself, its table, its events."""
    record = s.first.record
    assert record is not None, s.first.unrecorded
    again = records.read_result(s.system, (record.path / "result.json").read_text())
    assert type(again) is type(s.result)
    assert repr(again) == repr(s.result)  # every field; == would never hold for nan
    assert again.fingerprint() == s.result.fingerprint()
    pd.testing.assert_frame_equal(again.to_frame(), s.result.to_frame())
    pd.testing.assert_frame_equal(record.frame(), s.result.to_frame(), check_dtype=False)
    assert [e for _, e in record.events()] == [e for _, e in s.first.events]
    assert record.config() == s.first.config


def no_downgrade(s):
    """A backend asked for by name that is not there is a failure with its reason, never another backend."""
    gone = [b for b in ("cuda", "cpu", "sim") if b not in s.system.backends or not backends.backend(b).available]
    assert gone, "this machine has every backend: nothing to check"
    for name in gone:
        try:
            config = s.system.make("tiny", backend=name)
        except ConfigError as error:
            assert error.errors()[0]["loc"] == ("backend",)  # noqa: PT017
            continue
        run = runner.Run(s.system, config).start().wait(WAIT_S)
        assert isinstance(run.error, backends.BackendUnavailable), f"backend={name} ended {run.state}: {run.error}"


def cancel(s):
    """Cancelled right after start, at the first event and half-way: ended within 2 s, and nothing of it is left."""
    half = max(2, len(s.first.events) // 2)  # s.first also warms up what a process starts once and keeps
    for after in (0, 1, half):
        for last_try in (False, True):  # a busy machine may stall once, not twice
            took, left = _cancelled(s.system, after)
            if not left and took <= CANCEL_S:
                break
            assert not last_try, f"cancelled after {after} events: ended in {took:.1f} s, left {left or 'nothing'}"


def _cancelled(system, after, patience_s=1.0):
    """Cancel one run after so many events: seconds until it had ended, and what was left behind."""
    with tempfile.TemporaryDirectory() as fresh, _tmp(fresh):
        before = set(threading.enumerate()), _children()
        run = runner.Run(system, system.make("tiny")).start()
        limit = time.monotonic() + WAIT_S
        while len(run.events) < after and run.state in ("ready", "running"):
            assert time.monotonic() < limit, f"{after} events did not come in {WAIT_S} s"
            time.sleep(0.0005)
        asked = time.monotonic()
        run.cancel()
        run.wait(WAIT_S)
        took = time.monotonic() - asked
        assert run.state in ("cancelled", "done"), f"ended {run.state}: {run.error}"
        assert after > 0 or run.state == "cancelled", "cancelled at once, and yet it worked on to the end"
        return took, _left(before, Path(fresh), patience_s)


TORCHS = "torchinductor_"  # torch's own cache, made when it is first imported


def _left(before, folder, patience_s):
    """Threads, processes and files that outlive a run, looked for again for a while: some take a moment to end."""
    left = []
    gc.collect()
    for _ in range(round(patience_s / 0.05)):
        threads = {t.name for t in set(threading.enumerate()) - before[0] if t.is_alive() and "tqdm" not in repr(t)}
        files = [name for p in folder.rglob("*") if not (name := str(p.relative_to(folder))).startswith(TORCHS)]
        left = [*sorted(threads), *sorted(_children() - before[1]), *files]
        if not left:
            break
        time.sleep(0.05)
    return left


def _children():
    names = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            line = " ".join(child.cmdline())
            if child.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in line:
                names.add(f"process {child.pid} {line[:80]}")
    return names


@contextlib.contextmanager
def _tmp(folder):
    """Temporary files of this process and its children go to `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", None)
        yield
    tempfile.tempdir = None


ALL = (
    presets, baselines, config_json, descriptions, wrong_field_named, code, same_seed, another_seed, progress, gaps,
    events, graph, offers, spans, details, summary, provenance, sentence, figure, preview, frame, disk,
    no_downgrade, cancel,
)  # fmt: skip
