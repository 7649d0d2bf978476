"""The command `workbench`: lab, list, doctor, run, bench, report. Results go to stdout, everything else to stderr.

Exit codes: 0 done, 1 the work failed, 2 the call was wrong, 130 cancelled by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from workbench.runner import Run
    from workbench.system import Event, Result, System

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
DEBUG = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure")]
AS_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout")]

CANCELLED = 130


class Wrong(typer.TyperException):
    """The call was wrong: said in one line, exit code 2."""

    exit_code = 2


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(call(sys.argv[1:] if args is None else args))


def call(args: Sequence[str]) -> int:
    """Run one command line; returns its exit code. A failure is one line on stderr, a traceback with --debug."""
    debug = "--debug" in args and args[0] != "lab"
    args = [a for a in args if a != "--debug"] if debug else list(args)
    if args in ([], ["run"]):
        args = [*args, "--help"]
    try:
        code = typer.main.get_command(app).main(args, prog_name="workbench", standalone_mode=False) or 0
        return _fail("cancelled", code) if code == CANCELLED else code  # typer turns Ctrl-C into this code
    except (KeyboardInterrupt, typer.Abort):
        return _fail("cancelled", CANCELLED)
    except typer.TyperException as error:
        return _fail(" ".join(error.format_message().split()), error.exit_code)
    except Exception as error:  # noqa: BLE001  the last stop: whatever failed becomes a line and an exit code
        if debug:
            import traceback

            traceback.print_exc()
        return _fail(f"{type(error).__name__}: {' '.join(str(error).split())}", 1)


def _fail(said: str, code: int) -> int:
    print(f"workbench: {said}", file=sys.stderr)
    return code


@app.callback()
def _options(debug: DEBUG = False) -> None:  # listed here for --help; `call` takes it out of any place
    """Published ML-systems and HPC papers as running code."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(context: typer.Context) -> None:
    """Open JupyterLab at the tour. Further options go to JupyterLab, as --no-browser or --port 9999."""
    from workbench.backends import ROOT

    root = ROOT if (ROOT / "notebooks").is_dir() else Path.cwd()
    tour = root / "notebooks" / "00_tour.ipynb"
    if not tour.exists():
        raise Wrong(f"{tour} does not exist; run this in a checkout of the project")
    options = [f"--ServerApp.root_dir={root}", "--LabApp.news_url=None"]
    options.append("--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", str(tour), *options, *context.args])  # noqa: S606


@app.command("list")
def list_(as_json: AS_JSON = False) -> None:
    """List the systems, their papers and presets."""
    from workbench.system import systems

    rows = {s.name: _about(s) for s in systems().values()}
    if as_json:
        print(json.dumps(rows))
        return
    for name, row in rows.items():
        print(f"{name}: {row['title']}\n  paper      {row['paper']}\n  about      {row['about']}")
        for key in ("presets", "baselines", "backends"):
            print(f"  {key:<9}  {', '.join(row[key])}")


def _about(system: System) -> dict[str, Any]:
    plain = {"title": system.title, "paper": system.paper, "about": system.about}
    return (
        plain
        | {key: sorted(getattr(system, key)) for key in ("backends", "baselines")}
        | {"presets": list(system.presets)}
    )


@app.command()
def doctor(
    as_json: AS_JSON = False,
    torch: Annotated[bool, typer.Option("--torch", help="Ask torch about the GPU too; takes seconds")] = False,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Fetch the small language model first if it is missing")
    ] = False,
) -> None:
    """Say what this machine can and cannot do, and how to get the rest."""
    if fetch:
        from workbench import lm

        lm.path()
    import dataclasses

    from workbench.doctor import examine, text

    findings = examine(torch=torch)
    print(json.dumps([dataclasses.asdict(f) for f in findings]) if as_json else text(findings))


class Systems(TyperGroup):
    """The systems as subcommands of `run`, each with the flags of its config, made when asked for."""

    def list_commands(self, _: Any) -> list[str]:
        """Names of the catalogue."""
        from workbench.system import NAMES

        return list(NAMES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command that runs one system. Wrong lists those there are."""
        if cmd_name not in self.list_commands(ctx):
            raise Wrong(f"no system is called {cmd_name!r}; there are {', '.join(self.list_commands(ctx))}")
        from workbench.flags import with_flags
        from workbench.system import system

        target = system(cmd_name)

        def work(
            changes: dict[str, Any],
            preset: Annotated[str, typer.Option(metavar="NAME", help="The settings to start from")] = "small",
            out: Annotated[
                Path | None, typer.Option(metavar="FOLDER", help="Folder for the result as HTML, CSV, JSON and trace")
            ] = None,
            as_json: AS_JSON = False,
        ) -> None:
            _run(target, preset, changes, out, as_json)

        own = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        presets = ", ".join(target.presets)
        about = (
            f"{target.title}. {target.about}\n\nPresets: {presets}. A flag that is not given keeps the preset's value."
        )
        own.command(cmd_name, help=about)(with_flags(target.config, work))
        return typer.main.get_command(own)


run = typer.Typer(cls=Systems, rich_markup_mode=None, help="Run one system.")
app.add_typer(run, name="run")


@run.callback()
def _systems() -> None:
    """Run one system; `workbench run SYSTEM --help` lists its settings."""


def _run(target: System, preset: str, changes: dict[str, Any], out: Path | None, as_json: bool) -> None:
    from pydantic import ValidationError

    from workbench import runner
    from workbench.flags import wrong

    try:
        config = target.make(preset, **changes)
    except ValidationError as error:
        raise Wrong(wrong(error)) from error
    except ValueError as error:
        raise Wrong(str(error)) from error
    with _stdout_to_stderr() if as_json else contextlib.nullcontext():
        going = runner.start(target.name, config)
        result = runner.follow(going, _say)
        files = _export(result, out, target.name) if out is not None else []
    if as_json:
        print(json.dumps(_facts(going, result) | {"files": files}, allow_nan=False))
    else:
        print(_words(target, result))
    where = f"recorded as {going.record.id}" if going.record is not None else going.unrecorded
    print("\n".join([where, *(f"wrote {name}" for name in files)]), file=sys.stderr)


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """What an engine, its children or a C library print goes to stderr, so that stdout holds the answer alone."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _say(event: Event) -> None:
    from tqdm import tqdm

    from workbench.system import Note

    if isinstance(event, Note):
        tqdm.write(f"{event.level}: {event.text}", file=sys.stderr)


def _facts(going: Run, result: Result) -> dict[str, Any]:
    summary = {name: float(value) for name, value in result.summary().items()}
    return {
        "system": going.system.name,
        "summary": {name: value if math.isfinite(value) else None for name, value in summary.items()},
        "sentence": result.sentence(),
        "claims": [claim.model_dump(mode="json") for claim in result.claims()],
        "config": result.config.model_dump(mode="json"),
        "provenance": result.provenance.model_dump(mode="json"),
        "fingerprint": result.fingerprint(),
        "call": runner_code(going),
        "seconds": round(going.seconds, 3),
        "record": going.record.id if going.record is not None else None,
        "unrecorded": going.unrecorded,
    }


def runner_code(going: Run) -> str:
    """The Python call that makes this run again."""
    from workbench.runner import to_code

    return to_code(going.system, going.config)


def _words(target: System, result: Result) -> str:
    """A result for a terminal: its sentence, its numbers with their badges, the paper's numbers beside ours."""
    badges = result.provenance.badges
    summary = [(name, f"{value:.6g}", badges.get(name, "")) for name, value in result.summary().items()]
    parts = [result.sentence(), table(("number", "value", "how it was had"), summary)]
    claims = [(c.what, f"{c.paper:.4g} {c.unit}", "not in this run" if c.ours is None else f"{c.ours:.4g} {c.unit}",
               c.badge, c.source) for c in result.claims()]  # fmt: skip
    if claims:
        parts.append(table((f"claim of {target.title}", "paper", "ours", "how ours was had", "source"), claims))
    from_ = result.provenance
    parts.append(f"{from_.backend} on {from_.device}; commit {from_.commit}")
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns under a head."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def _export(result: Result, folder: Path, name: str) -> list[str]:
    """Write a result in every format into `folder`, which is made where it is missing; the paths written."""
    from workbench.ui import export

    folder.mkdir(parents=True, exist_ok=True)
    return [str(export.save(result, folder / f"{name}{ending}")) for ending in export.FORMATS]


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Which to run; all when none is named")] = None,
) -> None:
    """Run benchmarks (bench.py of kernels and systems) and append what they measure to benchmarks/*.csv."""
    import importlib

    found = benches()
    unknown = [name for name in names or () if name not in found]
    if unknown:
        raise Wrong(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(found) or 'none'}")
    for name in names or found:
        print(f"bench {name}", file=sys.stderr)
        with _stdout_to_stderr():
            rows = importlib.import_module(found[name]).main()
        print(append(name, rows))


def benches() -> dict[str, str]:
    """Benchmarks by the name of their folder, and the module whose `main()` runs each."""
    from workbench.backends import ROOT

    places = {"workbench.kernels": ROOT / "kernels", "workbench": ROOT / "workbench"}
    return {
        path.parent.name: f"{package}.{path.parent.name}.bench"
        for package, folder in places.items()
        for path in sorted(folder.glob("*/bench.py"))
    }


def append(name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Add measured rows to benchmarks/<name>.csv, each with its time, commit and device. ValueError: other columns."""
    import csv
    from datetime import UTC, datetime

    from workbench import backends

    path = backends.ROOT / "benchmarks" / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    told = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "commit": backends.commit()}
    full = [told | {"device": backends.device()} | dict(row) for row in rows]  # a row may name its own device
    columns = list(full[0]) if full else []
    there = path.read_text(encoding="utf-8").splitlines()[:1] if path.exists() else []
    if there and full and next(csv.reader(there)) != columns:
        raise ValueError(f"{path} has other columns than {', '.join(columns)}; move it aside")
    with path.open("a", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, columns)
        if not there and full:
            writer.writeheader()
        writer.writerows(full)
    return path


@app.command()
def report(
    preset: Annotated[str, typer.Option(help="The preset that every system runs")] = "small",
    out: Annotated[Path, typer.Option(help="The HTML file to write")] = Path("report.html"),
) -> None:
    """Run one preset of every system and write one offline HTML: figures, and the paper's numbers beside ours."""
    from workbench import runner
    from workbench.system import systems
    from workbench.ui import export

    lacking = [name for name, each in systems().items() if preset not in each.presets]
    if lacking:
        raise Wrong(f"no preset {preset!r} in {', '.join(lacking)}")
    results = [runner.follow(runner.start(name, preset=preset), _say) for name in systems()]
    out.write_text(export.report(results), encoding="utf-8")
    print(out)
