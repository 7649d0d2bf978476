"""A config as command-line flags and back: a flag per field, its help from the field's description and bounds."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from workbench.system import Config, ConfigError

_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than", "multiple_of": "a multiple of"}
_WORDS = {int: "INTEGER", float: "NUMBER", str: "TEXT"}


def flag(name: str) -> str:
    """`link_mb_s` -> `--link-mb-s`."""
    return "--" + name.replace("_", "-")


def with_flags(config: type[Config], call: Callable[..., None]) -> Callable[..., None]:
    """`call(changes, **own)` as a function that takes, besides its own options, one per field of `config`.

    `changes` holds the fields that were given on the command line, as values that the config can validate.
    """
    own = [p for p in inspect.signature(call, eval_str=True).parameters.values() if p.name != "changes"]
    taken = {p.name for p in own}
    clash = taken & set(config.model_fields)
    if clash:
        raise ValueError(f"{config.__name__} has fields that are options of every run: {', '.join(sorted(clash))}")
    fields = [_option(name, field) for name, field in config.model_fields.items()]

    def command(**given: Any) -> None:
        changes = {
            name: value if isinstance(value, bool) else _given(name, value, config.model_fields[name])
            for name, value in given.items()
            if name not in taken and value is not None
        }
        call(changes, **{name: value for name, value in given.items() if name in taken})

    command.__signature__ = inspect.Signature([*own, *fields])  # type: ignore[attr-defined]  # what typer reads
    command.__annotations__ = {p.name: p.annotation for p in (*own, *fields)}
    command.__doc__ = call.__doc__
    return command


def parse(text: str, annotation: Any) -> Any:
    """The value that a flag's text stands for: "none" where None may be, a list after commas, the rest as it is."""
    options = _alternatives(annotation)
    if text.lower() == "none" and type(None) in options:
        return None
    kind = next((o for o in options if o is not type(None)), str)
    origin = get_origin(kind) or kind
    if origin is Literal:
        return {str(value): value for value in get_args(kind)}.get(text, text)
    if origin in (tuple, list, set, frozenset):
        inner = next((a for a in get_args(kind) if a is not Ellipsis), str)
        return [parse(part.strip(), inner) for part in text.split(",") if part.strip()]
    if origin is dict or (isinstance(origin, type) and issubclass(origin, BaseModel)):
        return json.loads(text)
    return text


def _given(name: str, text: str, field: FieldInfo) -> Any:
    """The value of a flag. A field of several lines takes @FILE too, and a graph backslash and n for a line's end.

    @@ begins a text with one @. BadParameter when the file cannot be read.
    """
    kind = widget(field)
    if kind not in LONG:
        return parse(text, field.annotation)
    if text.startswith("@@"):
        return text[1:]
    if text.startswith("@"):
        try:
            return Path(text[1:]).read_text(encoding="utf-8").strip("\n")
        except (OSError, UnicodeDecodeError) as error:
            said = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise typer.BadParameter(f"{flag(name)}: {text[1:]} cannot be read: {said}") from error
    return parse(text.replace("\\n", "\n") if kind == "dag" else text, field.annotation)


LONG = {"text": "@FILE reads it from a file", "dag": r"Lines end with \n, or @FILE reads them from a file"}


def widget(field: FieldInfo) -> str:
    """What the field asks to be edited with: "text" for several lines, "dag" for a graph (workbench.dag), else ""."""
    extra = field.json_schema_extra
    return str(extra.get("widget", "")) if isinstance(extra, dict) else ""


def wrong(error: ConfigError) -> str:
    """What is wrong with a config, in one line that names each field by its flag."""
    return "; ".join(
        (f"{flag(f.field)}: " if f.field else "") + f.said + (f", not {f.given}" if f.given else "")
        for f in error.faults
    )


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    options = _alternatives(field.annotation)
    parts = (field.description or "", _bounds(field), LONG.get(widget(field), ""))
    help_ = ". ".join(part for part in parts if part)
    kind: Any
    if bool in options:
        names, kind, metavar = f"{flag(name)}/--no-{flag(name)[2:]}", bool | None, None
    else:
        names, kind, metavar = flag(name), str | None, _metavar(options)
    annotation = Annotated[kind, typer.Option(names, metavar=metavar, help=help_, show_default=False)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """`float | None` -> (float, None's type); anything else alone. Annotated[...] counts as what it annotates."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(x for each in get_args(annotation) for x in _alternatives(each))
    return (annotation,)


def _metavar(options: tuple[Any, ...]) -> str:
    words = []
    for each in options:
        origin = get_origin(each) or each
        if each is type(None):
            words.append("none")
        elif origin is Literal:
            words += [str(value) for value in get_args(each)]
        elif origin in (tuple, list, set, frozenset):
            words.append("A,B,...")
        else:
            words.append(_WORDS.get(origin, "JSON"))
    return "|".join(words)


def _bounds(field: FieldInfo) -> str:
    told = [f"{words} {getattr(m, key)}" for m in field.metadata for key, words in _BOUNDS.items() if hasattr(m, key)]
    return ", ".join(told).capitalize()
