"""A planner without a model: the query is cut at its lists, its sentences and its "then", "finally" and "compare".

The baseline of all planners, and on a tiny model often the better one. It knows English words and no meanings: a part
needs what stands before its "then", and "finally" or "compare" brings together all that nothing else has used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from workbench.plato.grammar import LEAST_ASK, one_line
from workbench.plato.graph import MOST_NODES, Plan, plan_of
from workbench.plato.parse import MOST_ASK

_ITEM = re.compile(r"(?:^|\n)\s{0,8}(?:\d{1,2}[.)]|[-*•])\s{1,4}(?=\S)|(?<=\s)\(?\d{1,2}\)\s{1,4}(?=\S)")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_THEN = re.compile(
    r"[,;]?\s*\b(?:and\s+)?(finally|at last|lastly|in the end|to finish|end with|and end with|"
    r"then|after that|afterwards|next)\b[,:]?\s*",
    re.IGNORECASE,
)
_LAST = ("finally", "at last", "lastly", "in the end", "to finish", "end with", "and end with")
_JOINS = re.compile(
    r"\b(?:compare|contrast|summari[sz]e|conclude|decide|overall|which of|the two|both|all of)\b", re.IGNORECASE
)
_REFERS = re.compile(r"\b(?:it|its|them|their|those|these|that|this|him|her)\b", re.IGNORECASE)
_ACTIONS = (
    "add advise analyse analyze answer ask build calculate check choose cite compare compute conclude contrast convert "
    "count create decide define describe design discuss draft draw end estimate evaluate examine explain find give "
    "identify imagine invent judge list look make mention name outline pick plan predict prepare propose prove "
    "recommend research review say select sketch solve state study suggest sum summarise summarize take tell "
    "think translate work write"
)
_QUESTIONS = "who what when where why how which whose is are do does did can could should would will"
_VERBS, _ASKING = frozenset(_ACTIONS.split()), frozenset(_QUESTIONS.split())
_COMMA = re.compile(r"(?:,\s*(?:and\s+|or\s+)?|\s+and\s+)")
_ACTION = re.compile(rf"(?:,\s*(?:and\s+)?|\s+and\s+)(?=(?:{'|'.join(sorted(_VERBS))})\b)", re.IGNORECASE)


@dataclass
class _Group:
    """Parts that stand side by side, and how they hang on what stands before: not at all, on the last group, on all."""

    parts: list[str]
    after: str = ""  # "", "then" or "last"


def rules_plan(query: str, node_tokens: int = 64) -> Plan:
    """The plan that the rules find; one part with the whole query where they find nothing to cut."""
    groups = _listed(query) or _told(one_line(query))
    rows: list[tuple[str, tuple[int, ...]]] = []
    before: list[int] = []
    for group in groups:
        sinks = [i for i in range(1, len(rows) + 1) if not any(i in needs for _, needs in rows)]
        needs = sinks if group.after == "last" else before if group.after else []
        first = len(rows) + 1
        for part in group.parts:
            ask = one_line(part).strip(" ,;:")[:MOST_ASK].strip()
            if len(ask) >= LEAST_ASK and len(rows) < MOST_NODES and all(ask != known for known, _ in rows):
                rows.append((ask[0].upper() + ask[1:], tuple(needs)))
        before = list(range(first, len(rows) + 1)) or before
    return plan_of(rows or [(one_line(query)[:MOST_ASK].strip() or query.strip()[:MOST_ASK], ())], node_tokens)


def _listed(query: str) -> list[_Group]:
    """The items of a numbered, dotted or semicolon list, each after what it refers to."""
    marks = list(_ITEM.finditer(query))
    if len(marks) >= 2:
        ends = [m.start() for m in marks[1:]] + [len(query)]
        items = [query[m.end() : end] for m, end in zip(marks, ends, strict=True)]
    elif query.count(";") >= 2:
        items = re.sub(r"^[^;:]{0,200}:", "", query, count=1).split(";")
    else:
        return []
    groups = []
    for item in items:
        if marker := _THEN.match(item):
            said = item[marker.end() :]
            groups.append(_Group([said], "last" if _JOINS.search(said) else _kind(marker)))
        elif groups and _JOINS.search(item):
            groups.append(_Group([item], "last"))
        else:
            groups.append(_Group([item], "then" if groups and _REFERS.search(item) else ""))
    return groups


def _told(text: str) -> list[_Group]:
    """The clauses of running text."""
    groups: list[_Group] = []
    for sentence in _SENTENCE.split(text):
        head, colon, rest = sentence.partition(": ")
        about = f"{head}: " if colon and len(rest) > LEAST_ASK else ""
        after, at = "", 0
        marks = list(_THEN.finditer(rest if about else sentence))
        said = rest if about else sentence
        for mark in [*marks, None]:
            clause = said[at : mark.start() if mark else len(said)].strip(" ,;.")
            if clause and (about or after or _asks(clause)):
                groups += _clause(clause, after, about, bool(groups))
            if mark:
                after, at = _kind(mark), mark.end()
    return groups


def _clause(clause: str, after: str, about: str, follows: bool) -> list[_Group]:
    """One clause: several parts where it lists things or actions."""
    pieces = [p.strip() for p in _COMMA.split(clause) if p and p.strip()]
    if about:
        first_word = re.compile(r"\s+(?:first|at first|to begin with)$", re.IGNORECASE)
        return [_Group([about + first_word.sub("", p) for p in pieces], after)]
    if _word(clause) in _VERBS and len(actions := _ACTION.split(clause)) >= 2:
        return [_one(action, after if not k else "", follows or k > 0) for k, action in enumerate(actions)]
    if len(pieces) >= 3 and _word(pieces[0]) in _VERBS and "?" not in clause:
        verb, _, item = pieces[0].partition(" ")
        if _JOINS.match(verb):
            return [_Group([f"Describe {p}" for p in [item, *pieces[1:]]], after), _Group([clause], "then")]
        return [_Group([f"{verb} {p}" for p in [item, *pieces[1:]]], after)]
    return [_one(clause, after, follows)]


def _one(clause: str, after: str, follows: bool) -> _Group:
    if not after and follows:
        after = "last" if _JOINS.search(clause) else "then" if _REFERS.search(clause) else ""
    return _Group([clause], after)


def _kind(mark: re.Match[str]) -> str:
    return "last" if mark[1].lower() in _LAST else "then"


def _word(text: str) -> str:
    return re.split(r"\W", text.strip().lower(), maxsplit=1)[0]


def _asks(clause: str) -> bool:
    """Whether it asks for something; what only tells of the situation is no part."""
    return _word(clause) in _VERBS | _ASKING or "?" in clause
