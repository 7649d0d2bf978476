"""A system as a card: what it is, what its last run came to, and a run of one of its presets at the press of a button.

Cards take turns: one run goes at a time, so that measured times are of a machine that does nothing else for us.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from html import escape

import ipywidgets as widgets

from workbench import theme
from workbench.records import Headline, Record
from workbench.runner import Run
from workbench.system import System
from workbench.ui import draw
from workbench.ui.jobs import Job, Jobs
from workbench.ui.live import Story, head_html
from workbench.ui.past import told
from workbench.ui.show import badge
from workbench.ui.view import View

_BARS = 4
_RATES = "_per_"  # a number per something is no number of that something
_RESTING = "nothing runs"


class Turns:
    """Who may run: the first who asked goes, the others wait in the order in which they asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: list[Card] = []

    @property
    def first(self) -> Card | None:
        """The one that goes."""
        with self._lock:
            return self._queue[0] if self._queue else None

    def ask(self, card: Card) -> list[Card]:
        """Queue up; those ahead, none when it is its turn at once."""
        with self._lock:
            ahead = list(self._queue)
            self._queue.append(card)
            return ahead

    def has(self, card: Card) -> bool:
        """Whether it goes or waits."""
        with self._lock:
            return card in self._queue

    def leave(self, card: Card) -> None:
        """Out of the queue; where it was the one that went, the next one goes. Harmless when it is not in it."""
        with self._lock:
            went = self._queue[:1] == [card]
            if card in self._queue:
                self._queue.remove(card)
            after = self._queue[0] if went and self._queue else None
        if after is not None:
            after.go()


class Card(widgets.VBox):  # type: ignore[misc]
    """One system. `on_open(card)` hears that its panel is wanted, `on_ended()` that a run has ended and is on disk."""

    def __init__(self, system: System, turns: Turns) -> None:
        self.system, self.turns = system, turns
        self.run: Run | None = None
        self.on_open: Callable[[Card], None] = lambda _: None
        self.on_ended: Callable[[], None] = lambda: None
        self.beside: Callable[[], str] = lambda: ""  # what else is running, in words
        self._state, self._off = "ready", threading.Event()  # the latter: its run is not wanted any more
        self._unkept = ""  # what the last run came to, where it could not be recorded
        self.jobs = Jobs(system, self._tick, self._ended, self._idle, self._turn)
        self.about, self.live = View(), View()
        first = "tiny" if "tiny" in system.presets else next(iter(system.presets))
        self.preset = widgets.Dropdown(options=list(system.presets), value=first, tooltip="A whole setting by name")
        self.run_button = widgets.Button(button_style="primary")
        self.cancel_button = widgets.Button(description="Cancel", disabled=True)
        self.open_button = widgets.Button(description="Open panel", tooltip=f"All of {system.short}: form, figures")
        buttons = widgets.Box([self.preset, self.run_button, self.open_button, self.cancel_button])
        buttons.add_class("wb-cardbuttons")
        super().__init__([self.about, self.live, buttons])
        self.add_class("wb-system")
        self.run_button.on_click(lambda _: self.start())
        self.cancel_button.on_click(lambda _: self.cancel())
        self.open_button.on_click(lambda _: self.on_open(self))
        self.preset.observe(lambda _: self._name_run(), "value")
        self._name_run()
        self.tell(None)
        self._say("ready", _RESTING)

    @property
    def state(self) -> str:
        """One of ready, waiting, running, done, cancelled, failed."""
        return "running" if self.jobs.busy else self._state

    @property
    def busy(self) -> bool:
        """Whether a run goes or waits."""
        return self.turns.has(self)

    def start(self) -> None:
        """What Run does: run the chosen preset, when it is this card's turn. Nothing while it runs or waits."""
        if self.busy:
            return
        self._off.clear()
        ahead = self.turns.ask(self)
        self._buttons(going=True)
        if ahead:
            names = " and ".join(card.system.short for card in ahead)
            self._say("waiting", f"after {names}: two at once would slow each other")
        else:
            self.go()

    def go(self) -> None:
        """It is its turn."""
        if self._off.is_set():  # cancelled as its turn came
            self._give_up()
            return
        self._say("running", self.beside() or "starting")  # before the first event: imports may take seconds
        try:
            self.jobs.start([Job("", self.system.presets[self._chosen])])
        except Exception as error:  # noqa: BLE001  no more threads, say: `jobs` has left the queue, which must go on
            self._say("failed", f"not started: {error}")
        if self._off.is_set():
            self.jobs.cancel()

    def cancel(self) -> None:
        """What Cancel does: stop at the next event, or wait no longer. Harmless when it neither runs nor waits."""
        if not self.busy:
            return
        self._off.set()
        if self.turns.first is self:
            self.jobs.cancel()
        else:
            self._give_up()

    def _give_up(self) -> None:
        self._say("cancelled", "before it began")
        self.turns.leave(self)
        self._buttons(going=False)

    def tell(self, record: Record | None) -> None:
        """Show what the last finished run came to, or why that cannot be read, or that there is none."""
        if record is None:
            self._about('<div class="wb-quiet">No finished run is on disk yet.</div>')
            return
        when, took, _ = told(record)
        try:
            said = last_html(record.headline(), f"{when[:16]} UTC · {took}")
        except Exception as error:  # noqa: BLE001  whatever lies in a file of the past must not hide the other cards
            said = f'<div class="wb-quiet">Last run {when[:16]} UTC: {escape(str(error))}</div>'
        self._about(said)

    def refuse(self, text: str) -> None:
        """Say beside the buttons why something that was pressed cannot be, unless a run is told of there."""
        if not self.busy:
            self._say("failed", text)

    def _about(self, last: str) -> None:
        last = self._unkept or last
        name, _, rest = self.system.title.partition(": ")
        first = self.system.about.partition(". ")[0].rstrip(".")
        tail = f"<span>{escape(rest)}</span>" if rest else ""
        html = (
            f'<h4 class="wb-cardname" title="{escape(self.system.paper)}">{escape(name)}{tail}</h4>'
            f'<p class="wb-cardabout">{escape(first)}.</p><div class="wb-last">{last}</div>'
        )
        if self.about.html != html:
            self.about.html = html

    def _name_run(self) -> None:
        self._chosen = str(self.preset.value)
        self.run_button.description = f"Run {self._chosen}"
        self.run_button.tooltip = f'wb.run("{self.system.name}", preset="{self._chosen}")'

    def _say(self, state: str, text: str) -> None:
        self._state = state
        self._paint(Story(), state, text)

    def _paint(self, story: Story, state: str, text: str) -> None:
        self.live.html = head_html(story, state, text)

    def _buttons(self, *, going: bool) -> None:
        self.preset.disabled = going
        both = (self.run_button, self.cancel_button)
        for one in both[::-1] if going else both:  # what can be pressed now first: the focus goes there (ui/view.js)
            one.disabled = going is (one is self.run_button)

    def _turn(self, running: bool) -> None:
        """`jobs.busy` has changed. After a run the turn is the next one's."""
        if not running:
            self.turns.leave(self)
        self._buttons(going=self.busy)

    def _tick(self, _: Job, run: Run) -> None:
        if run.state == "running":
            self._paint(_so_far(run), "running", f"{run.progress.note} · {theme.number(run.seconds)} s")

    def _ended(self, _: Job, run: Run) -> None:
        self.run = run
        took = f"after {theme.number(run.seconds)} s"
        if run.state == "done":
            text = took if run.record else f"{took} · {run.unrecorded}"
        elif run.state == "cancelled":
            text = f"{took} at '{run.progress.note}'"
        else:
            text = f"{type(run.error).__name__}: {run.error}" if run.error else "the run gave no result"
        self._state = run.state
        self._paint(_so_far(run), run.state, text)
        if run.result is not None:
            self._unkept = "" if run.record else last_html(Headline.of(run.result), "is not on disk")

    def _idle(self, error: BaseException | None) -> None:
        """Nothing runs any more. `error` is what kept the card from showing it, if anything did."""
        try:
            if self._state == "running":
                self._say("cancelled", "before it began")
            self.on_ended()
        except Exception as fault:  # noqa: BLE001  the first fault is told, whichever it is
            error = error or fault
        if error is not None:
            self._say("failed", f"the run could not be shown: {type(error).__name__}: {error}")

    def __repr__(self) -> str:
        return f"Card({self.system.name!r})"


def _so_far(run: Run) -> Story:
    return Story([(run.seconds, run.progress)])


def last_html(headline: Headline, when: str) -> str:
    """The last finished run: when, how its numbers were had, a small picture where there is one, and its sentence."""
    caption, names, labels = alike(headline.summary)
    how = dict.fromkeys(headline.badges.get(n, "") for n in names or list(headline.summary)[:1])
    marks = " ".join(badge(name) for name in how if name)
    rows = [(label, headline.summary[n], headline.badges.get(n) == "modelled") for n, label in zip(names, labels)]
    picture = draw.bars(caption, rows, marks) if rows else f'<div class="wb-scale">{marks}</div>'
    return f'<div class="wb-quiet">Last run {escape(when)}</div>{picture}<p>{escape(headline.sentence)}</p>'


def alike(summary: Mapping[str, float]) -> tuple[str, list[str], list[str]]:
    """Numbers of a summary that can stand on one scale: (caption, their names, their labels); empty where none can.

    The first number that has kin decides: those that end with its name (ttft_s, load_only_ttft_s), else those of its
    unit (total_s, sequential_s).
    """
    for name in summary:
        kin = [name, *(n for n in summary if n.endswith(f"_{name}") and (_RATES in n) == (_RATES in name))][:_BARS]
        if len(kin) > 1:
            stem = theme.split_unit(name)[0]
            words = [theme.split_unit(n)[0].removesuffix(stem).strip() for n in kin]
            return theme.label(name), kin, ["this run", *words[1:]]
        kin = [n for n in summary if _unit(n) == _unit(name) and (_RATES in n) == (_RATES in name)][:_BARS]
        if _unit(name) and len(kin) > 1:
            return _unit(name), kin, [_label(n) for n in kin]
    return "", [], []


def _unit(name: str) -> str:
    return "ratio (×)" if name.endswith("_ratio") else {"s": "seconds"}.get(unit := theme.split_unit(name)[1], unit)


def _label(name: str) -> str:
    return theme.split_unit(name)[0].removesuffix(" ratio")


def columns(cards: Sequence[Card]) -> widgets.Box:
    """The cards side by side, as many in a row as there is room for."""
    box = widgets.Box(list(cards))
    box.add_class("wb-systems")
    return box
