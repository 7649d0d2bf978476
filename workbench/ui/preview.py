"""The cheap model of a form, redrawn while its sliders move: the panel's only FigureWidget.

The widget carries all of plotly.js, so the first picture is a plain figure and the widget is made at the first change.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from workbench.lanes import Board, write
from workbench.system import Config
from workbench.ui import show
from workbench.ui.lanes import Lanes
from workbench.ui.pane import FigurePane
from workbench.ui.view import View

if TYPE_CHECKING:
    import plotly.graph_objects as go

_SAID = '<div class="wb-quiet"{}>Modelled from the form as it stands; nothing is run.</div>'
_PERIOD_S = 0.25  # at most 4 pictures a second


class Preview(widgets.VBox):  # type: ignore[misc]
    """Draws `model(config)`, below what `board(config)` says can be moved. `ask` returns at once; the latest wins.

    What is asked while it is out of sight is drawn when it comes into sight: a figure without a size has no place for
    its labels, and a picture that nobody looks at costs as much as any.
    """

    def __init__(self, model: Callable[[Any], go.Figure], board: Callable[[Any], Board] | None = None) -> None:
        self.model, self.board = model, board
        self.lanes: Lanes | None = None
        self._hint: Callable[[str, str], None] | None = None
        self.widget: go.FigureWidget | None = None
        self.error: BaseException | None = None
        self.drawn = 0
        self.shown: Config | None = None  # what the picture is of, or will be
        self._lock = threading.Lock()
        self._wanted: Config | None = None
        self._seen = True
        self._thread: threading.Thread | None = None
        self._plain = FigurePane()
        self._said, self.text = View(), View()
        self._said.html = _SAID.format("")
        super().__init__([self._said, self._plain, self.text])

    def on_move(self, change: Callable[[str, str | None], None], hint: Callable[[str, str], None]) -> None:
        """Show what can be moved, before the first picture. `change(setting, text)` when it is, None: by nobody;
        `hint(setting, text)` with where things lie when nobody has moved them.
        """
        if self.board is not None:
            self.lanes = Lanes(change)
            self._hint = hint
            self.children = (self._said, self.lanes, self._plain, self.text)

    def start(self, config: Config) -> None:
        """The first picture, plain."""
        self.shown = config
        try:
            self._place(config)
            fig = self.model(config)
            self._plain.show(fig)
            self._tell(fig)
        except Exception as error:  # noqa: BLE001  a model that fails is shown, and the panel works without it
            self._fail(error)

    def ask(self, config: Config) -> None:
        """Redraw for this config soon."""
        with self._lock:
            self._wanted = self.shown = config
            self._wake()

    def look(self, seen: bool) -> None:
        """Whether it is in sight now."""
        with self._lock:
            self._seen = seen
            self._wake()

    def _wake(self) -> None:
        if self._seen and self._wanted is not None and self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="workbench-preview", daemon=True)
            self._thread.start()

    def wait(self, timeout_s: float = 30.0) -> None:
        """Until everything asked for is drawn. TimeoutError when the model takes longer."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
            if thread.is_alive():
                raise TimeoutError(f"the preview is still being drawn after {timeout_s} s")

    def _serve(self) -> None:
        while True:
            with self._lock:
                config, self._wanted = (self._wanted, None) if self._seen else (None, self._wanted)
                if config is None:
                    self._thread = None
                    return
            begun = time.monotonic()
            try:
                self._place(config)
                self._draw(self.model(config))
                self.error, self._said.html = None, _SAID.format(" data-resize")
            except Exception as error:  # noqa: BLE001  shown beside the picture; the next change tries again
                self._fail(error)
            time.sleep(max(0.0, _PERIOD_S - (time.monotonic() - begun)))

    def _latest(self) -> bool:
        return self._wanted is None

    def _place(self, config: Config) -> None:
        """What can be moved, before the picture: it is there sooner."""
        if self.board is None or self.lanes is None:
            return
        try:
            board = self.board(config)
        except Exception as error:
            self.lanes.refuse(str(error), self._latest)
            raise
        self.lanes.show(board, self._latest)
        if not board.given and self._hint is not None:
            self._hint(board.field, write(board.rows))

    def _draw(self, fig: go.Figure) -> None:
        import plotly.graph_objects as go

        if self.widget is None:
            self.widget = go.FigureWidget(fig)
            self.widget._config = dict(show.CONFIG)
            parts: tuple[Any, ...] = self.children
            self.children = tuple(self.widget if part is self._plain else part for part in parts)
        else:
            _replace(self.widget, fig)
        self._tell(fig)
        self.drawn += 1

    def _tell(self, fig: go.Figure) -> None:
        """The picture in words, below it: for those who do not see it, and for search."""
        self.text.html = f'<p class="wb-quiet">{escape(show.alternative(fig))}</p>'

    def _fail(self, error: BaseException) -> None:
        self.error = error
        self._said.html = f'<div class="wb-error" role="alert">No preview: {escape(str(error))}</div>'

    def __repr__(self) -> str:
        return "Preview()"


def _replace(widget: go.FigureWidget, fig: go.Figure) -> None:
    """Make `widget` show `fig` in one batch; traces are kept where their kinds agree, so the picture does not blink."""
    same = [t.type for t in widget.data] == [t.type for t in fig.data]
    with widget.batch_update():
        if same:
            for old, new in zip(widget.data, fig.data, strict=True):
                old.update(new.to_plotly_json(), overwrite=True)
        else:
            widget.data = []
            widget.add_traces(fig.data)
        widget.update_layout(fig.layout.to_plotly_json(), overwrite=True)
