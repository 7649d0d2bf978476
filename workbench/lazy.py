"""A group of commands that lies in a module of its own and is loaded when one of them is asked for."""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperGroup


def group(module: str, about: str) -> typer.Typer:
    """The commands of `module.app`, a typer app; `about` stands in the list of commands above it."""

    class Group(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return _loaded(module).list_commands(ctx)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return _loaded(module).get_command(ctx, cmd_name)

    return typer.Typer(cls=Group, callback=_nothing, rich_markup_mode=None, help=about)


def _loaded(module: str) -> Any:
    return typer.main.get_command(importlib.import_module(module).app)


def _nothing() -> None:
    """A group needs a callback to be one."""
