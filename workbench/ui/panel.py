"""The panel: form, live strip and results of one system. It knows no system, only Config, Event, Result and Run.

panel = wb.open("cake", preset="small", link_mb_s=30)      also a config, a record, a result or a copied call
panel.config; panel.run; panel.result
"""

from __future__ import annotations

import traceback
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from workbench import theme
from workbench.records import Record
from workbench.runner import Run, from_code, to_code
from workbench.system import Config, Result, Span, System, system, systems
from workbench.ui import export
from workbench.ui.acts import by_hand
from workbench.ui.fold import Fold
from workbench.ui.form import Form, plain
from workbench.ui.iopub import keep_all
from workbench.ui.jobs import Job, Jobs
from workbench.ui.live import Live, Story
from workbench.ui.replay import Replay
from workbench.ui.results import Results
from workbench.ui.view import View


class Panel(widgets.VBox):  # type: ignore[misc]
    """Runs one system from a form. All of it works from any thread; nothing dear runs without Run."""

    def __init__(self, system: System, config: Config | None = None) -> None:
        keep_all()
        self.system = system
        self.run: Run | None = None  # the latest, baselines among them
        self.baselines: dict[str, Result] = {}
        self._story, self._seen = Story(), 0
        self._of, self._key, self._unrecorded = "", "", 0  # what the shown result is of, and its name among others
        self._spans: list[Span] = []  # of the run that gave it
        self._trouble: dict[str, str] = {}  # baseline -> why it has no result
        self._comparing = False
        self.form = Form(system, config or next((system.presets[n] for n in ("small",) if n in system.presets), None))
        self.live, self.results = Live(), Results(system)
        self.replay = Replay(self.live)
        self.jobs = Jobs(system, self._tick, self._ended, self._idle, self._turn)
        super().__init__(self._layout())
        self.add_class("wb-panel")
        self._connect()
        self._say("ready", "change the settings, then press Run")
        self._on_form()

    @property
    def config(self) -> Config:
        """The form's config. ValueError names the settings that are wrong."""
        return self.form.config

    @property
    def result(self) -> Result | None:
        """The last good result."""
        return self.results.result

    @property
    def state(self) -> str:
        """One of ready, running, done, cancelled, failed."""
        return "running" if self.jobs.busy else self._state

    def start(self) -> None:
        """What Run does: run the form's config. A wrong form starts nothing and says what is wrong."""
        config = self._valid()
        if config is not None:
            self._begin([Job("", config)], comparing=False)

    def start_baselines(self) -> None:
        """What Run baselines does: the form's config, then each baseline of it with the same seed."""
        config = self._valid()
        if config is None or self.jobs.busy:
            return
        jobs, self.baselines, self._trouble = [], {}, {}
        if self.result is None or self.result.config != config:
            jobs.append(Job("", config))
        for name, changes in self.system.baselines.items():
            try:
                jobs.append(Job(name, self.system.make(None, **(config.model_dump() | dict(changes)))))
            except ValueError as error:
                self._trouble[name] = f"not a valid setting: {plain(error)}"
        self._begin(jobs, comparing=True)

    def cancel(self) -> None:
        """What Cancel does: stop at the next event and start nothing more. Harmless when nothing runs."""
        self.jobs.cancel()

    def wait(self, timeout_s: float = 60.0) -> Panel:
        """Until nothing runs any more. TimeoutError after `timeout_s`."""
        self.jobs.wait(timeout_s)
        return self

    def reopen(self, record: Record) -> None:
        """Show a past run: its settings in the form, its events in the replay, its result in the tabs."""
        if self.jobs.busy:
            raise ValueError("a run is going; cancel it or wait before reopening another")
        config, events = record.config(), record.events()
        result = record.result() if record.state == "done" else None
        self.form.load(config)
        self._story = Story(events)
        text = f"run {record.id}" + (f": {record.error}" if record.error else "")
        self._state = record.state
        self.live.paint(self._story, record.state, text)
        self.replay.load(events, record.state, text)
        self.results.say(events)
        if result is not None:
            hand = by_hand(len(self._story.board.marks))
            self._accept(result, f"run {record.id}, {hand}" if hand else f"run {record.id}", record.id)

    def show(self, result: Result) -> None:
        """Show a result that was had elsewhere, and its settings in the form."""
        self.form.load(result.config)
        self._accept(result, "the result that was given", "given")

    def _layout(self) -> list[Any]:
        """Header and code, form and live strip side by side, results below them over the whole width."""
        title, about, paper = map(escape, (self.system.title, self.system.about, self.system.paper))
        header = widgets.HTML(f'<h3>{title}</h3><p class="wb-about">{about}</p><p class="wb-quiet">{paper}</p>')
        header.add_class("wb-title")
        self.run_button = widgets.Button(description="Run", button_style="primary", tooltip="Run these settings")
        self.cancel_button = widgets.Button(description="Cancel", disabled=True, tooltip="Stop at the next step")
        self.baseline_button = widgets.Button(
            description="Run baselines",
            tooltip=f"Same seed, one after another: {', '.join(self.system.baselines)}",
            disabled=not self.system.baselines,
        )
        buttons = widgets.HBox([self.run_button, self.cancel_button, self.baseline_button])
        buttons.add_class("wb-buttons")
        self.code = widgets.Text(description="As code", continuous_update=False, tooltip="Copy this call")
        self.code.add_class("wb-code")
        self.code_told = widgets.HTML()
        self.trace = widgets.HTML()
        self.trouble = Fold("Traceback", self.trace)
        self.trouble.layout.display = "none"
        self.caption, self.links = View(), View()
        self.save_button = widgets.Button(
            description="Save to disk", tooltip="Page, table, JSON and trace as files beside this notebook"
        )
        footer = widgets.HBox([self.links, self.save_button])
        footer.add_class("wb-footer")
        footer.layout.display = "none"
        self._footer = footer
        help_text = "Copy this call, or paste another one and press Enter: the form follows."
        code = widgets.VBox([self.code, widgets.HTML(f'<div class="wb-help">{help_text}</div>'), self.code_told])
        code.add_class("wb-codebox")
        work = widgets.VBox([buttons, self.live.head, self.live.acts, self.trouble, self.live.body, self.replay])
        work.add_class("wb-work")
        body = widgets.HBox([self.form, work])
        body.add_class("wb-body")
        wide = [self.form.wide] if self.form.takes_graph else []
        return [header, code, *wide, body, self.live.parts, self.caption, self.results, footer]

    def _connect(self) -> None:
        self.run_button.on_click(lambda _: self.start())
        self.cancel_button.on_click(lambda _: self.cancel())
        self.baseline_button.on_click(lambda _: self.start_baselines())
        self.save_button.on_click(lambda _: self._save())
        self.code.observe(self._on_code, "value")
        self.form.on_change(self._on_form)
        if self.form.takes_graph:
            self.live.parts.on_edit(self.form.take_graph)
        self.results.past.on_open = self.reopen
        self.results.past.on_delete = lambda record: self.results.beside.drop(record.id)
        if self.results.preview:
            self.results.preview.on_move(self.form.set, self.form.hint)
            self.results.preview.start(self.form.config)

    def _say(self, state: str, text: str) -> None:
        self._state = state
        self.live.paint(self._story, state, text)

    def _valid(self) -> Config | None:
        try:
            return self.form.config
        except ValueError as error:
            self._say("failed", f"not started: {error}")
            return None

    def _on_form(self) -> None:
        """The form has changed: the call follows, and the cheap model."""
        try:
            config = self.form.config
        except ValueError:
            return
        self.code.value = to_code(self.system, config)
        self.code_told.value = ""
        if self.results.preview and self.results.preview.shown != config:
            self.results.preview.ask(config)

    def _on_code(self, change: dict[str, Any]) -> None:
        """A call was pasted: the form follows, or it says what is wrong with the call."""
        try:
            target, config = from_code(change["new"])
            if target.name != self.system.name:
                raise ValueError(f'this panel is for {self.system.name}; wb.open("{target.name}") opens the other')
        except ValueError as error:
            self.code_told.value = f'<div class="wb-error" role="alert">{escape(plain(error))}</div>'
            return
        self.code_told.value = ""
        if config != self.form.config_or_none():
            self.form.load(config)

    def _begin(self, jobs: list[Job], *, comparing: bool) -> None:
        if self.jobs.busy:
            return
        self._comparing, self._state = comparing, "starting"
        self.live.paint(Story(), "running", "starting")  # before the first event: imports may take seconds
        self.jobs.start(jobs)

    def _turn(self, running: bool) -> None:
        """Buttons as `jobs.busy` says, which calls this at each of its changes."""
        free = [(self.run_button, running), (self.baseline_button, running or not self.system.baselines)]
        # what can be pressed now first: the focus goes there from what no longer can (ui/view.js)
        for button, off in sorted([*free, (self.cancel_button, not running)], key=lambda one: one[1]):
            button.disabled = off

    def _tick(self, job: Job, run: Run) -> None:
        """Take in what the run has said since the last time, and paint it."""
        if run is not self.run:
            self.run, self._story, self._seen = run, Story(), 0
            self.live.acts.follow(run)
            self.replay.lock()
            self.trouble.layout.display = "none"
            self.results.dim(self.result is not None)
            if self.result is not None:
                self.caption.html = (
                    f'<div class="wb-caption">Below: the last good result, from {escape(self._of)}</div>'
                )
        fresh = run.events[self._seen :]
        self._seen += len(fresh)
        self._story.take(fresh)
        if run.state == "running":
            name = f"{job.name}: " if job.name else ""
            self.live.paint(self._story, "running", f"{name}{run.progress.note} · {theme.number(run.seconds)} s")

    def _ended(self, job: Job, run: Run) -> None:
        """Paint the last event, keep the result or say why there is none."""
        self._tick(job, run)
        name = f"{job.name}: " if job.name else ""
        kept, key = (f"run {run.record.id}", run.record.id) if run.record else self._without_record(run)
        hand = by_hand(len(self._story.board.marks))
        took = f"{theme.number(run.seconds)} s" + (f", {hand}" if hand else "")
        if run.state == "done" and run.result is not None:
            text = f"{name}finished after {took} · {kept}"
            if job.name:
                self.baselines[job.name] = run.result
                self.results.remember(key, run.result, f"{job.name} · {key}")
            else:
                self._accept(run.result, f"{kept}, {hand}" if hand else kept, key)
        elif run.state == "cancelled":
            text = f"{name}after {took} at '{run.progress.note}': what is shown of it is partial"
            self._trouble[job.name] = text
        else:
            error = run.error or RuntimeError("the run gave no result")
            text = f"{name}{type(error).__name__}: {error}"
            self._trouble[job.name] = text
            self._trace(error)
        self._say(run.state, text)
        self.replay.load(run.events, run.state, text)
        self.results.say(run.events)

    def _without_record(self, run: Run) -> tuple[str, str]:
        """(why it is not on disk, its key among the results) of a run that could not be recorded."""
        self._unrecorded += 1
        return run.unrecorded, f"unrecorded {self._unrecorded}"

    def _accept(self, result: Result, of: str, key: str) -> None:
        """Take `result` as the last good one: `of` says in words where it is from, `key` is its name among others."""
        self.results.show(result, self._story.spans)
        self.results.remember(key, result)
        self._of, self._key, self._spans = of, key, list(self._story.spans)
        self._caption()
        hint = f"press {self.save_button.description}"
        self.links.html = f"Download: {export.links(result, self.system.name, self._spans, hint=hint)}"
        self._footer.layout.display = ""

    def _caption(self) -> None:
        self.results.dim(False)
        self.caption.html = f'<div class="wb-caption">From {escape(self._of)}</div>'

    def _idle(self, error: BaseException | None) -> None:
        """Nothing runs any more. `error` is what kept the panel from showing it, if anything did."""
        try:
            self._settle()
        except Exception as fault:  # noqa: BLE001  the first fault is told, whichever it is
            error = error or fault
        if error is not None:
            self._trace(error)
            self._say("failed", f"the panel could not show the run: {type(error).__name__}: {error}")

    def _settle(self) -> None:
        """Comparison of the baselines, and history."""
        if self._state == "starting":
            self._say("cancelled", "before it began")
        own = "" not in self._trouble  # the result on show is this run's, not one from before
        if self._comparing and (self.baselines or self._trouble) and self.result is not None:
            trouble = {name or "this run": text for name, text in self._trouble.items()}
            self.results.beside.show(({"this run": self.result} if own else {}) | self.baselines, trouble)
            self.results.turn("Compare")
        if self._state == "done" and self.result is not None and not (self._comparing and not own):
            self._caption()
        self.results.past.refresh()

    def _trace(self, error: BaseException) -> None:
        lines = "".join(traceback.format_exception(error))
        self.trace.value = f"<pre>{escape(lines)}</pre>"
        self.trouble.unfolded = False
        self.trouble.layout.display = ""

    def _save(self) -> None:
        """Write the result in every format beside the notebook and say where it is."""
        if self.result is None:
            return
        stem = f"{self.system.name}-{self._key.replace(' ', '-')}"
        try:
            paths = export.save_all(self.result, Path.cwd(), stem, self._spans)
        except OSError as error:
            self.caption.html = f'<div class="wb-error" role="alert">not saved: {escape(str(error))}</div>'
            return
        names = ", ".join(f"<code>{escape(path.name)}</code>" for path in paths)
        self.caption.html = f'<div class="wb-caption">Saved in <code>{escape(str(Path.cwd()))}</code>: {names}</div>'

    def __repr__(self) -> str:
        return f"Panel({self.system.name!r})"


def open_panel(
    target: str | System | Config | Record | Result,
    config: Config | None = None,
    *,
    preset: str | None = None,
    **changes: Any,
) -> Panel:
    """The panel of a system, by its name, a config, a record, a result, or the text of a copied call.

    `preset` and `changes` set the form; beside a past run's result, `changes` are what a new run would do otherwise.
    ValueError or KeyError names what is wrong with them.
    """
    found, own, past = _meant(target)
    if config is not None and own is not None:
        raise ValueError("a config goes with a system's name; a config, record, result or copied call has its own")
    config = config or own
    if config is not None and preset is not None:
        raise ValueError("give a config or a preset, not both")
    if config is None:
        config = found.make(preset or ("small" if "small" in found.presets else None), **changes)
    elif changes:
        config = found.make(None, **(config.model_dump() | changes))
    panel = Panel(found, config)
    if isinstance(past, Record):
        panel.reopen(past)
    elif isinstance(past, Result):
        panel.show(past)
    if past is not None and changes:
        panel.form.load(config)
    return panel


def _meant(target: object) -> tuple[System, Config | None, Record | Result | None]:
    """(system, the config that `target` brings with it, the past run that it is)."""
    match target:
        case str() if "(" in target:
            return *from_code(target), None
        case str():
            return system(target), None, None
        case System():
            return target, None, None
        case Record():
            return system(target.system), target.config(), target
        case Result():
            return _owner(target.config), target.config, target
        case Config():
            return _owner(target), target, None
    raise TypeError(f"open takes a name, a config, a record, a result or a copied call, not {target!r}")


def _owner(config: Config) -> System:
    for one in systems().values():
        if isinstance(config, one.config):
            return one
    raise ValueError(f"no system of the catalogue takes a {type(config).__name__}")
