"""The commands `workbench foundry inspect`, `diff` and `verify`: one JSON object on stdout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Look into archives of captured graphs.",
)
ARCHIVE = Annotated[Path, typer.Argument(metavar="ARCHIVE", help="A file that a capture wrote")]


class Failed(typer.TyperException):
    """The work failed: said in one line, exit code 1."""

    exit_code = 1


@app.command()
def inspect(
    archive: ARCHIVE,
    parameters: Annotated[
        int | None, typer.Option(metavar="BATCH", help="List every parameter of this batch size's graph instead")
    ] = None,
) -> None:
    """Say what an archive holds: model, fingerprint, arena, templates, graphs, binaries."""
    from workbench.foundry import explore

    if parameters is None:
        _say(lambda: explore.inspect(archive))
    else:
        _say(lambda: explore.parameters(archive, parameters))


@app.command()
def diff(first: ARCHIVE, second: ARCHIVE) -> None:
    """Say in what two archives differ; {} when they hold the same."""
    from workbench.foundry import explore

    _say(lambda: explore.diff(first, second))


@app.command()
def verify(
    archive: ARCHIVE,
    replay: Annotated[bool, typer.Option(help="Load it and replay every batch size on known inputs")] = True,
) -> None:
    """Say whether an archive may be used on this machine, and why not; exit code 1 when not."""
    from workbench.foundry import explore

    said = explore.verify(archive, replay=replay)
    print(json.dumps(said, indent=2))  # noqa: T201
    if not said["usable"]:
        raise Failed(f"{archive.name} cannot be used here: {said['why']}")


def _say(ask: Callable[[], Any]) -> None:
    from workbench.foundry.archive import Refused

    try:
        print(json.dumps(ask(), indent=2))  # noqa: T201
    except (Refused, ValueError) as error:
        raise Failed(str(error)) from error
