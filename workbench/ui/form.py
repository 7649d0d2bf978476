"""A form made from a system's config: a widget a field, a preset, errors beside the field that they name.

form = Form(system); form.load(config); form.config        ValueError names the settings that are wrong
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import ipywidgets as widgets
from pydantic import ValidationError

from workbench import theme
from workbench.system import Config, ConfigError, System, Vertex, faults
from workbench.ui.editor import from_vertices
from workbench.ui.fields import Field
from workbench.ui.fold import Fold

_CHANGED = "(changed)"


class Form(widgets.VBox):  # type: ignore[misc]
    """The form of one system. `on_change(call)` hears of every change, valid or not.

    `wide` holds the settings that need more room than its column, to be put where there is some.
    """

    def __init__(self, system: System, config: Config | None = None) -> None:
        self.system = system
        self._calls: list[Callable[[], None]] = []
        self._loading = False
        self.preset = widgets.Dropdown(
            options=[*system.presets, _CHANGED], description="Preset", tooltip="A whole setting by name"
        )
        self.preset.add_class("wb-preset")
        self.fields = {name: Field(name, info) for name, info in _ordered(system.config)}
        self._general = widgets.HTML()
        self._general.add_class("wb-error")
        super().__init__([self.preset, self._general, *self._groups()])
        self.add_class("wb-form")
        self.wide = widgets.VBox([_folded(theme.label(f.name), [f]) for f in self.fields.values() if f.wide])
        self.wide.add_class("wb-wide")
        self.load(config or next(iter(system.presets.values())))
        self.preset.observe(self._on_preset, "value")
        for name, field in self.fields.items():
            field.on_change(partial(self._on_field, name))

    @property
    def config(self) -> Config:
        """The config as set. ValueError names every setting that is wrong, which its place in the form shows too."""
        config, errors = self._parse()
        if config is None:
            raise ValueError("; ".join(f"{name}: {text}" if name else text for name, text in errors.items()))
        return config

    def config_or_none(self) -> Config | None:
        """The config as set, None while it is wrong."""
        return self._parse()[0]

    @property
    def errors(self) -> dict[str, str]:
        """What is wrong now: setting -> message; "" for what concerns several settings at once."""
        return self._parse()[1]

    def load(self, config: Config) -> None:
        """Show `config`. TypeError when it is another system's."""
        if not isinstance(config, self.system.config):
            raise TypeError(f"{self.system.name} takes a {self.system.config.__name__}, not {type(config).__name__}")
        self._give(config.model_dump())

    def set(self, name: str, value: Any) -> None:
        """Give one setting a value, as if a user had."""
        self._give({name: value})

    def hint(self, name: str, text: str) -> None:
        """What a setting that is left to the system comes to: seen in its place, and a start for what is typed."""
        self.fields[name].hint(text)

    def on_change(self, call: Callable[[], None]) -> None:
        """`call()` after every change."""
        self._calls.append(call)

    @property
    def takes_graph(self) -> bool:
        """Whether a graph is among the settings."""
        return bool(self.wide.children)

    def take_graph(self, vertices: Sequence[Vertex]) -> None:
        """Make the graph of a run the first setting that holds one, and unfold it."""
        folded = self.wide.children[0]
        folded.body.children[0].value = from_vertices(vertices)
        folded.unfolded = True
        self._refresh()

    def _parse(self) -> tuple[Config | None, dict[str, str]]:
        values: dict[str, Any] = {}
        errors: dict[str, str] = {}
        for name, field in self.fields.items():
            try:
                values[name] = field.value
            except ValueError as error:
                errors[name] = str(error)
        if errors:
            return None, errors
        try:
            return self.system.config.model_validate(values), {}
        except ValidationError as error:
            for fault in faults(error, self.fields):
                errors.setdefault(fault.field, fault.said)
        return None, errors

    def _refresh(self) -> None:
        """Errors to their places, the preset's name to what the form holds, then tell the listeners."""
        config, errors = self._parse()
        for name, field in self.fields.items():
            if field.error != errors.get(name, ""):
                field.error = errors.get(name, "")
        general = errors.get("", "")
        self._general.value = f'<div role="alert">{escape(general)}</div>' if general else ""
        same = [name for name, preset in self.system.presets.items() if preset == config]
        self._loading = True
        self.preset.value = same[0] if same else _CHANGED
        self._loading = False
        for call in self._calls:
            call()

    def _give(self, values: Mapping[str, Any]) -> None:
        """Values for fields, and one refresh for all of them."""
        self._loading = True
        try:
            for name, value in values.items():
                self.fields[name].value = value
        finally:
            self._loading = False
        self._refresh()

    def _on_field(self, name: str) -> None:
        """A user changed it: settings that its `clears` names, which held for what it was, are left to the system."""
        if self._loading:
            return
        extra = self.system.config.model_fields[name].json_schema_extra
        found = extra.get("clears") if isinstance(extra, dict) else None
        self._give({str(other): None for other in found} if isinstance(found, list) else {})

    def _on_preset(self, change: dict[str, Any]) -> None:
        if not self._loading and change["new"] != _CHANGED:
            self.load(self.system.presets[change["new"]])

    def _groups(self) -> list[Any]:
        """Fields without a group, then a fold a group."""
        groups: dict[str, list[Field]] = {}
        for name, info in _ordered(self.system.config):
            if self.fields[name].wide:
                continue
            extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
            groups.setdefault(str(extra.get("group", "")), []).append(self.fields[name])
        parts: list[Any] = groups.pop("", [])
        for title, fields in groups.items():
            parts.append(_folded(title, fields))
        return parts

    def __repr__(self) -> str:
        return f"Form({self.system.name!r})"


def _folded(title: str, fields: list[Field]) -> Fold:
    return Fold(f"{title[:1].upper()}{title[1:]}", widgets.VBox(fields))


def plain(error: ValueError) -> str:
    """What is wrong in one line: "chunks: Input should be less than or equal to 400"."""
    if not isinstance(error, ConfigError):
        return str(error)
    return "; ".join(f"{fault.field}: {fault.said}" if fault.field else fault.said for fault in error.faults)


def _ordered(config: type[Config]) -> list[tuple[str, Any]]:
    """A system's own settings first, then those that every config has."""
    shared = Config.model_fields
    fields = config.model_fields.items()
    return [f for f in fields if f[0] not in shared] + [f for f in fields if f[0] in shared]
