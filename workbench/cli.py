"""The command `workbench`: lab, list, doctor, run, bench, report, claims, mm2, foundry. Results go to stdout alone.

Exit codes: 0 done, 1 the work failed, 2 the call was wrong, 130 cancelled by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from workbench import sigterm, streams
from workbench.lazy import group

if TYPE_CHECKING:
    from workbench.runner import Run
    from workbench.system import Event, Result, System

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
DEBUG = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure")]
AS_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout")]

CANCELLED, TERMINATED = 130, 143  # 128 and the signal's number, as shells have it
CANCELLABLE = ("run", "report", "bench", "claims")  # they start runs; SIGTERM ends the others at once, as is usual


class Wrong(typer.TyperException):
    """The call was wrong: said in one line, exit code 2."""

    exit_code = 2


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    args = sys.argv[1:] if args is None else args
    code = call(args)
    if "--json" in args:  # what a library says at exit is no part of the answer
        streams.flush(sys.stdout)
        os.dup2(2, 1)
    sys.exit(code)


def call(args: Sequence[str]) -> int:
    """Run one command line; returns its exit code. A failure is one line on stderr, a traceback with --debug."""
    debug = "--debug" in args and args[0] != "lab"
    args = [a for a in args if a != "--debug"] if debug else list(args)
    if args in ([], ["run"]):
        args = [*args, "--help"]
    try:
        with sigterm.raises() if args[0] in CANCELLABLE else contextlib.nullcontext():
            code = typer.main.get_command(app).main(args, prog_name="workbench", standalone_mode=False) or 0
        return _fail("cancelled", code) if code == CANCELLED else code  # typer turns Ctrl-C into this code
    except (KeyboardInterrupt, typer.Abort):
        return _fail("cancelled", CANCELLED)
    except sigterm.Terminated:
        return _fail("terminated", TERMINATED)
    except typer.TyperException as error:
        said, where = " ".join(error.format_message().split()), getattr(error, "ctx", None)
        if where is not None and said.startswith(("No such command", "Missing command")):
            said += f" {where.command_path} --help lists them."
        return _fail(said, error.exit_code)
    except Exception as error:  # noqa: BLE001  the last stop: whatever failed becomes a line and an exit code
        if debug:
            import traceback

            traceback.print_exc()
        return _fail(f"{type(error).__name__}: {' '.join(_words(error).split())}", 1)


def _words(error: Exception) -> str:
    """What an error says; of a file that is not there its name and why, without Python's numbers."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


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
    # not the notebook as an argument: that opens it in a browser of ours alone, and the printed link leads elsewhere
    options.append(f"--LabApp.default_url=/lab/tree/{tour.relative_to(root).as_posix()}")
    options.append("--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *options, *context.args])  # noqa: S606


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
    import dataclasses

    from workbench.doctor import examine, text

    refused = _fetch() if fetch else ""
    findings = examine(torch=torch, unfetched=refused)
    print(json.dumps([dataclasses.asdict(f) for f in findings]) if as_json else text(findings))
    if refused:
        raise typer.Exit(1)


def _fetch() -> str:
    """Have the small language model here; why that is not possible, "" when it is."""
    from workbench import lm
    from workbench.bar import bar

    with contextlib.closing(bar("SmolLM2")) as shown:
        try:
            lm.path(progress=lambda done, total, note: shown.update(done / total, note))
        except lm.ModelUnavailable as error:
            return str(error)
    return ""


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
                Path | None,
                typer.Option(
                    metavar="FOLDER", help="Folder for the result as HTML, CSV, JSON and trace, made if needed"
                ),
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


app.add_typer(group("workbench.mm2.cli", "Map long reads as minimap2 does, or index a reference."), name="mm2")
app.add_typer(group("workbench.foundry.cli", "Look into archives of captured graphs."), name="foundry")


def _run(target: System, preset: str, changes: dict[str, Any], out: Path | None, as_json: bool) -> None:
    from workbench import runner
    from workbench.flags import wrong
    from workbench.system import ConfigError
    from workbench.terminal import words

    try:
        config = target.make(preset, **changes)
    except ConfigError as error:
        raise Wrong(wrong(error)) from error
    except ValueError as error:
        raise Wrong(str(error)) from error
    if out is not None:
        _make_folder(out)
    with streams.stdout_to_stderr() if as_json else contextlib.nullcontext():
        going = runner.start(target.name, config)
        result = runner.follow(going, _say)
        files, refused = _export(result, out, target.name) if out is not None else ([], "")
    if as_json:
        print(json.dumps(_plain(_facts(going, result) | {"files": files}), allow_nan=False))
    else:
        print(words(target.title, result))
    where = f"recorded as {going.record.id}" if going.record is not None else going.unrecorded
    print("\n".join([where, *(f"wrote {name}" for name in files)]), file=sys.stderr)
    if refused:
        raise typer.Exit(_fail(f"not all was written to {out}: {refused}", 1))


def _make_folder(folder: Path) -> None:
    """Have a folder that can be written to, before anything is run for it. Wrong says why there is none."""
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise Wrong(f"--out: nothing can be written to {folder}: {error.strerror}") from error


def _say(event: Event) -> None:
    from tqdm import tqdm

    from workbench.system import Note

    if isinstance(event, Note):
        tqdm.write(f"{event.level}: {event.text}", file=sys.stderr)


def _facts(going: Run, result: Result) -> dict[str, Any]:
    return {
        "system": going.system.name,
        "summary": {name: float(value) for name, value in result.summary().items()},
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


def _plain(value: Any) -> Any:
    """Any JSON value with null for what JSON has no number for: infinity and nan."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def runner_code(going: Run) -> str:
    """The Python call that makes this run again."""
    from workbench.runner import to_code

    return to_code(going.system, going.config)


def _export(result: Result, folder: Path, name: str) -> tuple[list[str], str]:
    """Write a result in every format into `folder`: (paths, ""), or ([], why not): the answer is due all the same."""
    from workbench.ui import export

    try:
        return [str(path) for path in export.save_all(result, folder, name)], ""
    except OSError as error:
        return [], str(error)


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Which to run; all when none is named")] = None,
) -> None:
    """Run benchmarks (bench.py of kernels and systems) and append what they measure to benchmarks/*.csv."""
    from workbench import benches

    found = benches.benches()
    unknown = [name for name in names or () if name not in found]
    if unknown:
        raise Wrong(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(found) or 'none'}")
    for name in names or found:
        print(f"bench {name}", file=sys.stderr)
        with streams.stdout_to_stderr():
            path = benches.measure(name)
        print(path)


@app.command()
def report(
    preset: Annotated[str, typer.Option(help="The preset that every system runs")] = "small",
    out: Annotated[Path, typer.Option(help="The HTML file to write; CSV, JSON and trace go beside it")] = Path(
        "report.html"
    ),
) -> None:
    """Run one preset of every system and write one offline HTML: figures, and the paper's numbers beside ours.

    A system that fails is a section that says why, and the exit code is 1.
    """
    from workbench import runner
    from workbench.system import systems
    from workbench.ui import export

    lacking = [name for name, each in systems().items() if preset not in each.presets]
    if lacking:
        raise Wrong(f"no preset {preset!r} in {', '.join(lacking)}")
    if out.is_dir():
        raise Wrong(f"--out: {out} is a folder; name a file in it, as {out / 'report.html'}")
    _make_folder(out.parent)
    results, failed = [], {}
    for name, each in systems().items():
        try:
            with streams.stdout_to_stderr():
                results.append(runner.follow(runner.start(name, preset=preset), _say))
        except Exception as error:  # noqa: BLE001  the others are still worth their page
            failed[each.title] = f"{type(error).__name__}: {error}"
            _fail(f"{name}: {failed[each.title]}", 1)
    for path in export.save_report(results, out, failed):
        print(path)
    if failed:
        raise typer.Exit(1)


@app.command()
def claims(
    names: Annotated[list[str] | None, typer.Argument(help="Of which systems; of all when none is named")] = None,
    run: Annotated[bool, typer.Option("--run", help="First run small and paper where this machine has not")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Write this machine's results as the shipped records")] = False,
) -> None:
    """Print every published number beside ours as CSV, from this machine's records, else from the shipped ones."""
    from workbench import claimed, runner
    from workbench.system import NAMES

    if unknown := sorted(set(names or ()) - set(NAMES)):
        raise Wrong(f"no system is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    failed = False
    with streams.stdout_to_stderr():
        for name, preset, why in claimed.run_missing(runner.follow, names or ()) if run else ():
            failed |= bool(why)
            _fail(f"{name} {preset}: {why or 'recorded'}", 1)
        found = claimed.claims()
        for path in claimed.keep_all(names or ()) if keep else ():
            print(f"wrote {path}", file=sys.stderr)
    frame = found.to_frame()
    print((frame[frame["system"].isin(names)] if names and len(frame) else frame).to_csv(index=False), end="")
    print("\n".join([found.sentence(), *found.skipped]), file=sys.stderr)
    if failed:
        raise typer.Exit(1)
