"""A planner's text, in pieces, to the parts it names: lines of the grammar, looser lists, JSON, and what stands around.

Nothing is judged here (ids may be anything, needs may point anywhere); parse.py does that. No text makes this raise.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

MOST_LINE = 4000  # characters of a line or JSON object: longer ones are no part of a plan
_HEAD = 60  # a line that begins no JSON in as many characters is none

Name = int | str  # what a text calls a part

_STRICT = re.compile(r"(\d{1,3})(?: <- (\d{1,3}(?:, \d{1,3}){0,99}))?(?: \[(\d{1,9})\])?: (\S.*)")
_OPENED = re.compile(r"(\d{1,3}) <- (\d{1,3}(?:, \d{1,3}){0,99}) ?[\[:]")  # such a line, its needs complete
_WORD = r"(?:<-{1,2}|<=|←|needs?|depends on|builds on|requires?|after)"
_LOOSE = re.compile(
    r"(?:(?:part|node|step|task|point|sub-?question|question|q|n)\s{0,2}#?)?(\d{1,3})\s{0,3}"
    rf"(?:[(\[]?\s{{0,2}}{_WORD}\s{{0,2}}([^:\])]{{0,80}})[\])]?)?\s{{0,3}}"
    r"(?:\[\s{0,2}(\d{1,9})\s{0,2}(?:tokens)?\s{0,2}\])?\s{0,3}"
    r"(?::\s{0,9}|[.)\-–—]{1,2}\s{1,9})(\S.*)",
    re.IGNORECASE,
)
_TAIL = re.compile(
    rf"\s{{1,9}}(?:[(\[]\s{{0,2}}{_WORD}[:\s]{{0,3}}((?:parts?|steps?|nodes?|#|and|[\d,&\s]){{1,60}})[\])]\.?"
    r"|<-{1,2}\s{0,2}([\d,\s]{1,60}))$",
    re.IGNORECASE,
)
_BEFORE = r"[\s>*`-]{0,8}(?:json\s{0,3})?(?:[A-Za-z][\w ]{0,20}[:=]\s{0,3})?"  # what may stand before JSON on its line
_JSON = re.compile(_BEFORE + r"(\[\s{0,40}\{|\{\s{0,40}[\"}])")
_UNDECIDED = re.compile(_BEFORE + r"(?:\[|\[?\s{0,40}\{)\s{0,40}")  # JSON or not: the next character tells

_ASKS = ("ask", "question", "task", "query", "title", "description", "point", "text")
_IDS = ("id", "number", "index", "step", "node", "part", "n")
_NEEDS = ("needs", "depends_on", "dependencies", "deps", "requires", "after", "parents", "inputs")
_BUDGETS = ("budget", "tokens", "max_tokens")


@dataclass(frozen=True)
class Line:
    """A part as the text has it."""

    id: Name
    ask: str
    needs: tuple[Name, ...] = ()
    budget: int | None = None


class Lines:
    """`feed` text, get lines as soon as they are complete; `in_form` while nothing but clean parts came."""

    def __init__(self) -> None:
        self.in_form = True
        self._buffer, self._seen = "", 0  # text not yet read; how much of it has no end of a line
        self._first = ""  # what the text begins with
        self._objects: _Objects | None = None
        self._thinks = self._skips = self._over = self._ends_open = self._began = False
        self._last: Name = 0
        self._ignored = self._loose = self._broken = 0

    def feed(self, text: str) -> list[Line]:
        """Lines that `text` completes."""
        if len(self._first) < _HEAD:
            self._first = (self._first + text).lstrip()[:_HEAD]
        self._buffer += text
        lines: list[Line] = []
        while not self._over and self._once(lines):
            pass
        if self._over:
            self._buffer = ""
        return lines

    def opened(self) -> tuple[int, tuple[int, ...]] | None:
        """(id, needs) of a clean line that is being written, once its needs are complete: they stand first."""
        busy = self._objects is not None or self._thinks or self._skips or self._over
        found = None if busy else _OPENED.match(self._buffer)
        return (int(found[1]), tuple(int(n) for n in found[2].split(", "))) if found else None

    def finish(self) -> list[Line]:
        """What the rest of the text holds, when no more comes."""
        lines: list[Line] = []
        if self._objects is not None:
            swallowed, found = self._objects.text, self._objects.found
            self._objects = None
            if found:
                self._broken, self.in_form = self._broken + 1, False
            else:  # no JSON after all
                for text in swallowed.splitlines():
                    self._read(text, lines)
        rest, self._buffer, self._seen = self._buffer, "", 0
        before = len(lines)
        if rest.strip() and not self._over:
            self._read(rest, lines)
            self._ends_open = len(lines) > before
        return lines

    def said(self) -> list[str]:
        """What was passed over or read loosely, a sentence each."""
        said = []
        if self._loose:
            said.append(
                f"{_count(self._loose, 'line has', 'lines have')} another form than asked for: read all the same"
            )
        if self._ignored:
            said.append(f"{_count(self._ignored, 'line is', 'lines are')} no part of a plan: passed over")
        if self._broken:
            said.append("JSON that is broken or ends in the middle: what was complete is used")
        if self._ends_open:
            said.append(f"the text ends inside the line of part {self._last}: taken as it stands")
        if self._over:
            said.append("the list begins again at 1: only the first one is used")
        return said

    def begins(self) -> str:
        """Where nothing was found: what stands there instead."""
        if not self._first.strip():
            return "it wrote nothing"
        return f"it begins {' '.join(self._first.split())!r}"

    # -- one piece -----------------------------------------------------------------------------------------------

    def _once(self, lines: list[Line]) -> bool:
        """Read one line or some JSON off the buffer; False when more text is needed."""
        if self._objects is not None:
            self._buffer, done = self._objects.feed(self._buffer)
            for given in self._objects.new:
                self._give(given, lines)
            self._objects.new = []
            if done:
                if self._objects.broken or not self._objects.found:
                    self._broken, self.in_form = self._broken + 1, False
                self._objects, self._seen = None, 0
            return done and bool(self._buffer)
        if not (self._skips or self._thinks) and (begin := _JSON.match(self._buffer[:_HEAD])):
            self.in_form &= not self._buffer[: begin.start(1)].strip("` \n").removeprefix("json")
            self._objects, self._buffer = _Objects(), self._buffer[begin.start(1) :]
            return True
        if len(self._buffer) < _HEAD and _UNDECIDED.fullmatch(self._buffer):
            return False
        end = self._buffer.find("\n", self._seen)
        if end < 0:
            self._seen = len(self._buffer)
            if self._seen > MOST_LINE:
                self._buffer, self._seen, self._skips = "", 0, True
            return False
        text, self._buffer, self._seen = self._buffer[:end], self._buffer[end + 1 :], 0
        if self._skips:
            self._skips = False
            self._ignore()
        else:
            self._read(text, lines)
        return True

    def _read(self, text: str, lines: list[Line]) -> None:
        """One whole line."""
        if len(text) > MOST_LINE:
            self._ignore()
            return
        if self._thinks or text.lstrip().startswith("<think>"):
            self.in_form = False
            _, mark, text = text.partition("</think>")
            self._thinks = not mark
            if self._thinks:
                return
        if strict := _STRICT.fullmatch(text):
            needs = tuple(int(n) for n in (strict[2] or "").split(", ") if n)
            self._give(Line(int(strict[1]), strict[4], needs, int(strict[3]) if strict[3] else None), lines)
            return
        if line := _loose(text):
            self._loose, self.in_form = self._loose + 1, False
            self._give(line, lines)
        elif text.strip("` \r\t") not in ("", "json"):
            self._ignore()

    def _ignore(self) -> None:
        self._ignored, self.in_form = self._ignored + 1, False

    def _give(self, line: Line, lines: list[Line]) -> None:
        if self._over:
            return
        if line.id == "":
            line = Line(self._last + 1 if isinstance(self._last, int) else 0, line.ask, line.needs, line.budget)
        if line.id == 1 and self._began and isinstance(self._last, int) and self._last > 1:
            self._over, self.in_form = True, False
            return
        self._last, self._began = line.id, self._began or line.id == 1
        lines.append(line)


def _loose(text: str) -> Line | None:
    """A line in another form than asked for."""
    plain = text.replace("**", "").lstrip(" \t>#*-•·+_`|").rstrip(" \t\r`|")
    found = _LOOSE.fullmatch(plain)
    if found is None:
        return None
    ask, needs = found[4], found[2] or ""
    if tail := _TAIL.search(ask):
        ask, needs = ask[: tail.start()], f"{needs} {tail[1] or tail[2]}"
    ids = tuple(int(n) for n in re.findall(r"\d{1,9}", needs)[:100])
    return Line(int(found[1]), ask, ids, int(found[3]) if found[3] else None)


# -- JSON --------------------------------------------------------------------------------------------------------------


class _Objects:
    """Objects with a question in them, as they close, out of JSON at any depth."""

    def __init__(self) -> None:
        self.text = ""  # as far as read, while nothing has been found in it
        self.new: list[Line] = []
        self.found = 0
        self.broken = False
        self._open: list[list[Any]] = []  # of each open brace: text since it, whether a part was inside
        self._depth = 0
        self._quoted = self._escaped = False

    def feed(self, text: str) -> tuple[str, bool]:
        """(what is left, whether the outermost bracket has closed)."""
        for at, c in enumerate(text):
            for frame in self._open[-1:]:
                frame[0].append(c)
            if self._quoted:
                self._quoted = self._escaped or c != '"'
                self._escaped = c == "\\" and not self._escaped
            elif c == '"':
                self._quoted = True
            elif c in "{[":
                self._depth += 1
                if c == "{":
                    self._open.append([["{"], False])
            elif c in "}]":
                self._depth -= 1
                if c == "}" and self._open:
                    self._close()
                if self._depth <= 0:
                    return text[at + 1 :], True
        if not self.found and len(self.text) < 10 * MOST_LINE:
            self.text += text
        return "", False

    def _close(self) -> None:
        characters, inside = self._open.pop()
        if self._open:
            self._open[-1][0] += [*characters[1:]] if len(self._open[-1][0]) < MOST_LINE else []
            self._open[-1][1] |= inside
        if inside or len(characters) > MOST_LINE:
            return
        text = "".join(characters)
        try:
            item = json.loads(text, strict=False)
        except (ValueError, RecursionError):
            self.broken = True
            try:
                item = json.loads(re.sub(r",(\s{0,99}[}\]])", r"\1", text), strict=False)
            except (ValueError, RecursionError):
                return
        if isinstance(item, dict) and (line := _part(item)):
            self.new.append(line)
            self.found += 1
            for frame in self._open:
                frame[1] = True


def _part(item: dict[str, Any]) -> Line | None:
    """A part out of an object, by the names that planners use."""
    ask = next((item[k] for k in _ASKS if isinstance(item.get(k), str) and item[k].strip()), None)
    if ask is None:
        return None
    id = next((name for k in _IDS if (name := _name(item.get(k))) is not None), "")
    listed = next((item[k] for k in _NEEDS if item.get(k)), ())
    if isinstance(listed, str):
        listed = re.findall(r"\d{1,9}", listed) or [n.strip() for n in listed.split(",")]
    elif not isinstance(listed, list | tuple):
        listed = [listed]
    needs = tuple(name for n in listed[:100] if (name := _name(n)) is not None)
    budget = next((b for k in _BUDGETS if isinstance(b := _name(item.get(k)), int)), None)
    return Line(id, ask, needs, budget)


def _name(value: object) -> Name | None:
    """1 of 1, 1.0, "1" or "part 1"; a name of letters as it is; None of anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value) if abs(value) < 10**9 else None
    if isinstance(value, str):
        number = re.search(r"\d{1,9}", value)
        return int(number[0]) if number else (" ".join(value.split())[:30] or None)
    return None


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"
