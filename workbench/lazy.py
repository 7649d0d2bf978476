"""What is loaded when it is first asked for: a function of another module, a group of commands."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer


def later(target: str) -> Callable[..., Any]:
    """The function that "package.module:name" names; its module is imported with the first call."""
    module, _, name = target.partition(":")

    def call(*given: Any, **named: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*given, **named)

    return call


def group(module: str, about: str) -> typer.Typer:
    """The commands of `module.app`, a typer app; `about` stands in the list of commands above it."""
    import typer
    from typer.core import TyperGroup

    class Group(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return _loaded(module).list_commands(ctx)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return _loaded(module).get_command(ctx, cmd_name)

    return typer.Typer(cls=Group, callback=_nothing, rich_markup_mode=None, help=about)


def _loaded(module: str) -> Any:
    import typer

    return typer.main.get_command(importlib.import_module(module).app)


def _nothing() -> None:
    """A group needs a callback to be one."""
