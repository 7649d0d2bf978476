"""Runs on disk: one folder a run, written aside and renamed when whole, so a killed kernel loses no finished run.

runs/<system>/<id>/  record.json  headline.json  result.json  frame.parquet  events.jsonl
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import platformdirs

from workbench.system import NAMES, Config, Event, Result, System, system

if TYPE_CHECKING:
    import pandas as pd

    from workbench.runner import Run

FORMAT = 1
WAY_OUT = "free some space there, or set WORKBENCH_HOME to a folder that can be written"
MOST_READ = 2_000_000  # bytes of a result that is read for its headline alone
_KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in get_args(Event)}


def home() -> Path:
    """Folder of all runs: $WORKBENCH_HOME/runs, else the user's data folder."""
    given = os.environ.get("WORKBENCH_HOME")
    return Path(given or platformdirs.user_data_dir("ml-systems-workbench")) / "runs"


@dataclass(frozen=True)
class Headline:
    """What a run came to, for lists of runs: its sentence, its few numbers, and how each of them was had."""

    sentence: str
    summary: dict[str, float]
    badges: dict[str, str]

    @classmethod
    def of(cls, result: Result) -> Headline:
        """The headline of a result."""
        return cls(result.sentence(), result.summary(), dict(result.provenance.badges))


@dataclass(frozen=True)
class Record:
    """A run that has ended, as it lies on disk."""

    path: Path
    system: str
    state: str
    started_at: str
    seconds: float
    code: str
    error: str = ""

    @property
    def id(self) -> str:
        """Name of the folder: time of start and a few random letters."""
        return self.path.name

    def config(self) -> Config:
        """The run's config. ValueError when it is damaged or does not fit this version of the system."""
        with self._told("record.json"):
            return system(self.system).make(None, **json.loads(self._read("record.json"))["config"])

    def result(self) -> Result:
        """The run's result. ValueError says so when the run had none or the file is damaged."""
        self._must_have("result")
        with self._told("result.json"):
            return read_result(system(self.system), self._read("result.json"))

    def headline(self) -> Headline:
        """What the run came to, without reading its result. ValueError says so when it had none or the file is damaged.

        A run that was kept before there were headlines has its result read instead, unless that is large.
        """
        self._must_have("result")
        if (self.path / "headline.json").exists():
            with self._told("headline.json"):
                return _headline(json.loads(self._read("headline.json")))
        with self._told("result.json"):
            size = (self.path / "result.json").stat().st_size
        if size > MOST_READ:
            raise ValueError(f"run {self.id} was kept without a headline and its result is large; open it")
        return Headline.of(self.result())

    def events(self) -> list[tuple[float, Event]]:
        """Everything the run said: (seconds since start, event). ValueError names a file that is damaged."""
        with self._told("events.jsonl"):
            return [_event(json.loads(line)) for line in self._read("events.jsonl").splitlines()]

    def frame(self) -> pd.DataFrame:
        """The result's table, as stored. ValueError says so when the run had none or the file is damaged."""
        import pandas as pd

        self._must_have("table")
        with self._told("frame.parquet"):
            return pd.read_parquet(self.path / "frame.parquet")

    def delete(self) -> None:
        """Remove the run from disk."""
        shutil.rmtree(self.path)

    def _must_have(self, what: str) -> None:
        if self.state != "done":
            said = f"failed ({self.error})" if self.state == "failed" else f"was {self.state}"
            raise ValueError(f"run {self.id} {said}: it has no {what}")

    def _read(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Whatever a lost or damaged file raises becomes a ValueError that names it."""
        try:
            yield
        except OSError as error:  # pyarrow's carry no strerror
            said = error.strerror or error
            raise ValueError(f"run {self.id}: {name} cannot be read ({said}); delete the run") from error
        except Exception as error:
            raise ValueError(f"run {self.id}: {name} is damaged or of another version: {_why(error)}") from error


def read_result(target: System, text: str) -> Result:
    """A result from its JSON text, its config in the system's own class. ValueError names what does not fit."""
    try:
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError("it holds no fields")
        data["config"] = target.make(None, **data["config"])
        return target.result.model_validate(data)
    except Exception as error:  # arrays in arrays without end, say, are a RecursionError
        raise ValueError(f"not a {target.name} result of this version: {_why(error)}") from error


def _headline(data: Any) -> Headline:
    """The headline that lies in a file. ValueError or TypeError when it is none."""
    found = Headline(**data)
    if not (isinstance(found.sentence, str) and isinstance(found.summary, dict) and isinstance(found.badges, dict)):
        raise ValueError("a headline is a sentence, numbers and badges")
    return Headline(found.sentence, {k: float(v) for k, v in found.summary.items()}, found.badges)


def _why(error: Exception) -> str:
    """What was wrong with a file, in words: the error's own, after its kind where they mean nothing without it."""
    return str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"


def save(run: Run, state: str, begun: float) -> Record:
    """Write a run that has ended. OSError with cause and way out when that cannot be; nothing half-written stays.

    The first of a process also removes what killed ones left half-written.
    """
    from workbench.runner import to_code

    _sweep_once(home())
    stamp = datetime.fromtimestamp(begun, UTC)
    folder = home() / run.system.name
    name = f"{stamp:%Y%m%d-%H%M%S}-{stamp.microsecond // 1000:03}-{uuid.uuid4().hex[:4]}"
    aside = folder / f".{name}.{os.getpid()}"
    record = Record(
        path=folder / name,
        system=run.system.name,
        state=state,
        started_at=stamp.isoformat(timespec="seconds"),
        seconds=round(run.seconds, 3),
        code=to_code(run.system, run.config),
        error=f"{type(run.error).__name__}: {run.error}" if run.error is not None else "",
    )
    try:
        aside.mkdir(parents=True)
        facts = dataclasses.asdict(record) | {"format": FORMAT, "config": run.config.model_dump(mode="json")}
        del facts["path"]
        (aside / "record.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        with open(aside / "events.jsonl", "w", encoding="utf-8") as out:
            out.writelines(json.dumps(_line(at, event)) + "\n" for at, event in run.events)
        if run.result is not None:
            (aside / "result.json").write_text(run.result.to_json(), encoding="utf-8")
            headline = json.dumps(dataclasses.asdict(Headline.of(run.result)))
            (aside / "headline.json").write_text(headline, encoding="utf-8")
            run.result.to_frame().to_parquet(aside / "frame.parquet")
        aside.rename(folder / name)
    except OSError as error:
        raise OSError(error.errno, f"{folder} cannot be written: {error.strerror or error}; {WAY_OUT}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # has its name by now, unless something failed
    return record


def _line(at: float, event: Event) -> dict[str, Any]:
    fields = {k: dict(v) if k == "why" else v for k, v in _fields(event)}
    return {"t": round(at, 4), "is": type(event).__name__} | fields


def _fields(event: Event) -> Iterator[tuple[str, Any]]:
    return ((f.name, getattr(event, f.name)) for f in dataclasses.fields(event))


def _event(line: dict[str, Any]) -> tuple[float, Event]:
    kind = line.pop("is")
    if kind not in _KINDS:
        raise ValueError(f"no event is called {kind!r}")
    at = float(line.pop("t"))
    if "needs" in line:
        line["needs"] = tuple(line["needs"])  # JSON has lists
    return at, _KINDS[kind](**line)


class History(Sequence[Record]):
    """Past runs, the newest first. In a notebook it shows as a table."""

    def __init__(self, found: Sequence[Record], skipped: Sequence[str] = ()) -> None:
        self._found, self.skipped = list(found), list(skipped)

    def __getitem__(self, at: Any) -> Any:
        return self._found[at]

    def __len__(self) -> int:
        return len(self._found)

    def to_frame(self) -> pd.DataFrame:
        """A row per run."""
        import pandas as pd

        rows = [(r.system, r.started_at, r.state, r.seconds, r.code, r.id) for r in self._found]
        return pd.DataFrame(rows, columns=["system", "started_at", "state", "seconds", "call", "id"])

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False)

    def __repr__(self) -> str:
        return f"History({len(self)} runs)"


def history(name: str | None = None) -> History:
    """Past runs of one system, or of all. Folders that cannot be read are named in `.skipped`, never raised."""
    if name is not None:
        system(name)  # a wrong name is an error, not an empty history
    found, skipped = [], []
    for folder in [home() / n for n in ([name] if name else NAMES)]:
        try:
            paths = [p for p in folder.iterdir() if not p.name.startswith(".")] if folder.is_dir() else []
        except OSError as error:
            skipped.append(f"{folder}: {error.strerror}")
            continue
        for path in paths:
            try:
                found.append(_load(path))
            except Exception as error:  # noqa: BLE001  one damaged folder must not hide the others, whatever it raises
                skipped.append(f"{path.name}: {_why(error)}")
    return History(sorted(found, key=lambda r: r.id, reverse=True), skipped)


def _load(path: Path) -> Record:
    text = (path / "record.json").read_text(encoding="utf-8")
    try:
        facts = json.loads(text)
    except ValueError as error:
        raise ValueError(f"record.json is damaged: {error}") from error
    if not isinstance(facts, dict) or facts.pop("format", None) != FORMAT:
        raise ValueError("record.json is damaged or of another version")
    facts.pop("config")
    facts["seconds"] = float(facts["seconds"])
    if odd := [name for name, value in facts.items() if name != "seconds" and not isinstance(value, str)]:
        raise ValueError(f"record.json: {odd[0]} is no text")
    return Record(path=path, **facts)


_swept: set[Path] = set()


def _sweep_once(place: Path) -> None:
    if place not in _swept:
        _swept.add(place)
        sweep()


def sweep(older_than_s: float = 3600.0) -> None:
    """Remove what killed kernels left half-written. Never raises: what cannot be removed stays."""
    with contextlib.suppress(OSError):
        for aside in home().glob("*/.*"):
            with contextlib.suppress(OSError):
                if time.time() - aside.stat().st_mtime > older_than_s:
                    shutil.rmtree(aside, ignore_errors=True)
