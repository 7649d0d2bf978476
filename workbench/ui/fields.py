"""One setting of a form: the widget that its type and bounds ask for, its help, and its error beside it."""

from __future__ import annotations

import ast
import math
import types
from collections.abc import Callable
from html import escape
from typing import Any, Literal, Union, get_args, get_origin

import ipywidgets as widgets
from pydantic.fields import FieldInfo

from workbench import dag, theme
from workbench.ui.editor import DagEdit

_SLIDER_STEPS = 400  # wider ranges than this are typed, not slid


class Field(widgets.VBox):  # type: ignore[misc]
    """The setting `name`. `value` is what the user has set, in the type of the config; `error` shows beside it."""

    def __init__(self, name: str, info: FieldInfo) -> None:
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        self.name = name
        self._changed: Callable[[], None] | None = None
        self._hinting = False
        kind, self._optional = _without_none(info.annotation)
        self._set: Any = None  # value given from outside, kept exact while its widget is not touched
        self._shown: Any = None
        tip = info.description or ""
        self._read, self.input = _widget(kind, _bounds(info), tip, str(extra.get("widget", "")))
        self.wide = isinstance(self.input, DagEdit)  # needs more room than a form's column
        self.input.add_class("wb-input")
        self._none = widgets.Checkbox(
            value=False, description=str(extra.get("none", "automatic")), indent=False, tooltip=tip
        )
        self._none.add_class("wb-none")
        parts = [self._none, self.input] if self._optional else [self.input]
        self._message = ""
        self._error = widgets.HTML()
        self._error.add_class("wb-error")
        label = widgets.HTML(f'<label class="wb-fieldname" title="{escape(tip)}">{escape(theme.label(name))}</label>')
        note = widgets.HTML(f'<div class="wb-help">{escape(tip)}{_range(info)}</div>')
        row = widgets.HBox(parts)
        if isinstance(self.input, widgets.Textarea):
            row.add_class("wb-long")
        # what is wide stands in a fold that has its name, and tells its errors itself
        super().__init__([*parts, note] if self.wide else [label, row, self._error, note])
        self.add_class("wb-field")
        for part in parts:
            part.observe(self._on_change, "value")

    @property
    def value(self) -> Any:
        """What is set. ValueError when the text is not a value of the setting's type."""
        if self._optional and self._none.value:
            return None
        if self._shown is not None and self.input.value == self._shown:
            return self._set
        return self._read(self.input.value)

    @value.setter
    def value(self, value: Any) -> None:
        if self._optional:
            self._none.value = value is None
            self.input.disabled = value is None
        if value is None:
            return
        numeric = isinstance(
            self.input,
            (widgets.FloatSlider, widgets.FloatLogSlider, widgets.FloatText, widgets.IntText, widgets.IntSlider),
        )
        plain = isinstance(
            self.input, (widgets.Dropdown, widgets.Checkbox, widgets.Text, widgets.Textarea, DagEdit)
        ) and not isinstance(value, (tuple, list))
        self.input.value = value if numeric or plain else repr(value)
        self._set, self._shown = value, self.input.value

    @property
    def error(self) -> str:
        """The message beside the setting; empty when it is fine."""
        return self._message

    @error.setter
    def error(self, text: str) -> None:
        self._message = text
        if self.wide:
            self.input.tell(text)
            return
        self._error.value = f'<div role="alert"><b>{escape(self.name)}</b>: {escape(text)}</div>' if text else ""

    def hint(self, text: str) -> None:
        """Show what it comes to, where it is left to the system."""
        if self._optional and self._none.value and self.input.value != text:
            self._hinting = True
            try:
                self.input.value = text
            finally:
                self._hinting = False

    def on_change(self, call: Callable[[], None]) -> None:
        """`call()` after each change of the value."""
        self._changed = call

    def _on_change(self, _: Any) -> None:
        if self._optional:
            self.input.disabled = self._none.value
        if self._changed is not None and not self._hinting:
            self._changed()

    def __repr__(self) -> str:
        return f"Field({self.name!r})"


def _without_none(kind: Any) -> tuple[Any, bool]:
    if get_origin(kind) in (Union, types.UnionType):
        rest = [a for a in get_args(kind) if a is not type(None)]
        if len(rest) < len(get_args(kind)):
            return (rest[0] if len(rest) == 1 else Union[tuple(rest)]), True  # noqa: UP007  built at run time
    return kind, False


def _bounds(info: FieldInfo) -> tuple[float | None, float | None]:
    """(lowest, highest) value allowed, None where there is no such bound; open bounds give none."""
    found: dict[str, float] = {}
    for rule in info.metadata:
        found |= {k: getattr(rule, k) for k in ("ge", "le") if getattr(rule, k, None) is not None}
    return found.get("ge"), found.get("le")


def _range(info: FieldInfo) -> str:
    said = {"ge": "from", "gt": "above", "le": "to", "lt": "below", "multiple_of": "in steps of"}
    parts = []
    for rule in info.metadata:
        for key, word in said.items():
            if isinstance(limit := getattr(rule, key, None), (int, float)):
                parts.append(f"{word} {f'{int(limit):,}' if float(limit).is_integer() else f'{limit:g}'}")
    return f' <span class="wb-range">({escape(" ".join(parts))})</span>' if parts else ""


def _widget(
    kind: Any, bounds: tuple[float | None, float | None], tip: str, wish: str
) -> tuple[Callable[[Any], Any], Any]:
    """(how to read the widget's value, the widget) for a setting of type `kind` that asks for the widget `wish`."""
    lo, hi = bounds
    if wish == "dag":
        return _graph, DagEdit()
    if wish == "text":
        return str, widgets.Textarea(rows=4, continuous_update=False, tooltip=tip)
    if get_origin(kind) is Literal:
        return _same, widgets.Dropdown(options=list(get_args(kind)), tooltip=tip)
    if kind is bool:
        return bool, widgets.Checkbox(indent=False, description="yes", tooltip=tip)
    if kind is int:
        if lo is not None and hi is not None and hi - lo <= _SLIDER_STEPS:
            return int, widgets.IntSlider(min=int(lo), max=int(hi), continuous_update=False, tooltip=tip)
        return int, widgets.IntText(continuous_update=False, tooltip=tip)
    if kind is float:
        return _float_widget(lo, hi, tip)
    return (str if kind is str else _literal), widgets.Text(continuous_update=False, tooltip=tip)


def _float_widget(lo: float | None, hi: float | None, tip: str) -> tuple[Callable[[Any], Any], Any]:
    """(reader, widget): a typed number is taken as it was typed, one from a slider is rounded."""
    if lo is None or hi is None or hi <= lo or (lo <= 0 and hi - lo > _SLIDER_STEPS):
        return float, widgets.FloatText(continuous_update=False, tooltip=tip)
    if lo > 0 and hi / lo >= 100:
        ends = math.log10(lo), math.log10(hi)
        return _round, widgets.FloatLogSlider(
            min=ends[0], max=ends[1], step=0.02, value=lo, continuous_update=False, readout_format=".6", tooltip=tip
        )
    step = 10 ** math.floor(math.log10((hi - lo) / 50))
    return _round, widgets.FloatSlider(
        min=lo, max=hi, step=step, value=lo, continuous_update=False, readout_format=".6", tooltip=tip
    )


def _same(value: Any) -> Any:
    return value


def _round(value: float) -> float:
    """Sliders of floats give 29.9999999: the six significant digits that the readout shows are what was meant."""
    return float(f"{value:.6g}")


def _graph(text: str) -> str:
    if not dag.read(text):
        raise ValueError("write at least one line, as 1: question")
    return text


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError) as error:
        raise ValueError("not a plain value, as 1, (1, 2) or 'word'") from error
