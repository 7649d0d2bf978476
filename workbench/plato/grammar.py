r"""The plan as a grammar: what a planner may write when it may write nothing else.

    1: What does the first source say?
    2: What does the second source say?
    3 <- 1, 2: Which of the two is right?
                                            an empty line ends it

Ids count up, needs are smaller ids in rising order, so cycles and unknown parts cannot be written; the last part that
is allowed closes the list by itself. The same as Lark for llguidance (embedded engine) and for vLLM (its xgrammar and
guidance backends both read it), and as a JSON schema for servers that take only that.
"""

from __future__ import annotations

from typing import Any

from workbench.plato.graph import MOST_NODES, Plan

LEAST_ASK, MOST_ASK = 3, 120  # characters of a question
_CONTROL = r"\x00-\x1f\x7f\x80-\x9f\u2028\u2029"  # characters that end a line for somebody, and other invisible ones


def plan_lark(most: int = 8, least: int = 2, most_ask: int = MOST_ASK) -> str:
    """Lark of a plan of `least` to `most` parts whose questions have at most `most_ask` characters."""
    _check(most, least, most_ask)
    rules = []
    for id in range(1, most + 1):
        needs = f" needs_{id}" if id > 1 else ""
        rules.append(f'part_{id}: "{id}"{needs} ": " ASK "\\n" {_after(id, most, least)}')
        if id > 1:
            rules.append(f'needs_{id}: (" <- " from_1_{id})?')
        rules += [_rising(first, id) for first in range(1, id)]
    return "\n".join(["start: part_1", *rules, _ask_terminal(most_ask)]) + "\n"


def outline_lark(most: int = 8, least: int = 2, most_ask: int = MOST_ASK) -> str:
    """Lark of a list of points without needs, as Skeleton-of-Thought has it."""
    _check(most, least, most_ask)
    rules = [f'part_{id}: "{id}: " ASK "\\n" {_after(id, most, least)}' for id in range(1, most + 1)]
    return "\n".join(["start: part_1", *rules, _ask_terminal(most_ask)]) + "\n"


def plan_schema(most: int = 8, least: int = 2, most_ask: int = MOST_ASK, outline: bool = False) -> dict[str, Any]:
    """JSON schema of the same plan. It cannot say that needs are smaller than the id: what is read is repaired."""
    _check(most, least, most_ask)
    id = {"type": "integer", "minimum": 1, "maximum": most}
    fields: dict[str, Any] = {"id": id}
    if not outline:
        fields["needs"] = {"type": "array", "items": id, "maxItems": max(most - 1, 1)}
    fields["ask"] = {"type": "string", "minLength": LEAST_ASK, "maxLength": most_ask}
    part = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    parts = {"type": "array", "items": part, "minItems": least, "maxItems": most}
    return {"type": "object", "properties": {"parts": parts}, "required": ["parts"], "additionalProperties": False}


def plan_text(plan: Plan, outline: bool = False) -> str:
    """The text of `plan` in this grammar, with the empty line that ends it; budgets are not written."""
    lines = []
    for node in plan.nodes:
        needs = f" <- {', '.join(map(str, node.needs))}" if node.needs and not outline else ""
        lines.append(f"{node.id}{needs}: {one_line(node.ask)}\n")
    return "".join(lines) + "\n"


def one_line(ask: str) -> str:
    """A question as one line of printable text: other white space is one space, controls and lone surrogates go."""
    visible = "".join(c if c.isspace() or c.isprintable() or ord(c) > 0x9F else " " for c in ask)
    return " ".join(visible.encode("utf-8", "ignore").decode().split())


def _after(part: int, most: int, least: int) -> str:
    """What follows a part: the end, the next part, or either."""
    if part == most:
        return '"\\n"'
    return f"part_{part + 1}" if part < least else f'("\\n" | part_{part + 1})'


def _rising(first: int, part: int) -> str:
    """A list of ids from `first` to `part` - 1, rising, at least one."""
    ways = [f'"{i}"' + (f' (", " from_{i + 1}_{part})?' if i + 1 < part else "") for i in range(first, part)]
    return f"from_{first}_{part}: {' | '.join(ways)}"


def _ask_terminal(most_ask: int) -> str:
    return rf"ASK: /[^\s{_CONTROL}][^{_CONTROL}]{{{LEAST_ASK - 1},{most_ask - 1}}}/"


def _check(most: int, least: int, most_ask: int) -> None:
    if not 1 <= least <= most <= MOST_NODES:
        raise ValueError(f"a plan has 1 to {MOST_NODES} parts, not {least} to {most}")
    if most_ask < LEAST_ASK:
        raise ValueError(f"a question has at least {LEAST_ASK} characters: most_ask cannot be {most_ask}")
