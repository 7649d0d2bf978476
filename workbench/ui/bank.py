"""A placement (workbench.lanes.Board) as HTML: a button a sheet; a bank a group of lanes, and in each lane its things.

What is away is told by hatching beside colour, what is lifted by aria-pressed, all of it in words for screen readers.
"""

from __future__ import annotations

from html import escape

from workbench.lanes import Board, Rows


def sheets_html(board: Board, rows: Rows, sheet: int, every: bool) -> str:
    """A button a sheet, which tells how many of its things are away, and the switch to move in every one."""
    if len(rows) < 2:
        return ""
    cells = []
    for at, row in enumerate(rows):
        away = sum(board.lanes[lane].group == board.away for lane in row)
        said = f"{board.sheet} {at}" + (f": {away} of {len(row)} {board.thing}s on {board.away}" if board.away else "")
        count = f"<span>{away}</span>" if board.away else ""
        cells.append(
            f'<button type="button" class="wb-sheet" data-pick="{at}" tabindex="{0 if at == sheet else -1}" '
            f'aria-pressed="{str(at == sheet).lower()}" aria-label="{escape(said)}" title="{escape(said)}">'
            f"{at}{count}</button>"
        )
    tick = "✓ " if every else ""
    switch = (
        f'<button type="button" class="wb-toggle" role="switch" data-pick="every" tabindex="-1" '
        f'aria-checked="{str(every).lower()}"><span aria-hidden="true">{tick}</span>'
        f"move in every {escape(board.sheet)}</button>"
    )
    name = escape(board.sheet.capitalize())
    return f'<div class="wb-sheets" role="toolbar" aria-label="{name}"><b>{name}</b>{"".join(cells)}{switch}</div>'


def board_html(board: Board, rows: Rows, sheet: int, entry: int, lifted: int | None, turn: int = 0) -> str:
    """One sheet: a bank a group, a lane each with what is in it. Tab reaches the thing `entry`.

    While `rows` are ahead of the board's own, how much of a lane is in use is faint: it is of before.
    """
    banks = []
    for at, group in enumerate(board.groups):
        lanes = board.lanes_of(group)
        held = sum(lane in lanes for lane in rows[sheet])
        said = f"{held} of {len(rows[sheet])} {board.thing}s"
        slots = "".join(_slot(board, rows, sheet, lane, entry, lifted) for lane in lanes)
        banks.append(
            f'<section class="wb-bank" role="group" data-drop="group:{at}" aria-label="{escape(group)}: {said}">'
            f'<h4 aria-hidden="true">{escape(group[:1].upper() + group[1:])} <span>{said}</span></h4>'
            f'<div class="wb-slots">{slots}</div></section>'
        )
    said = f"{board.thing}s of {board.sheet} {sheet} by lane" if len(rows) > 1 else f"{board.thing}s by lane"
    return (
        f'<div class="wb-board{" wb-ahead" if rows != board.rows else ""}" role="group" data-arrows="plane" '
        f'data-lm-suppress-shortcuts="true" aria-label="{escape(said)}" data-turn="{turn}">{"".join(banks)}</div>'
    )


def _slot(board: Board, rows: Rows, sheet: int, lane: int, entry: int, lifted: int | None) -> str:
    """A lane: its name, which takes what is lifted, how much of it is in use, and its things."""
    one = board.lanes[lane]
    things = [thing for thing, at in enumerate(rows[sheet]) if at == lane]
    busy = "" if one.share is None else f"{100 * one.share:.0f} %"
    number = f"{len(things)} {board.thing}{'s' * (len(things) != 1)}"
    said = escape(f"{one.label}: {number}" + (f", busy {busy}" if busy else ""))
    bar = "" if one.share is None else f'<i><b style="width:{100 * min(one.share, 1):.1f}%"></b></i>'
    cells = "".join(_thing(board, sheet, thing, lane, thing == entry, thing == lifted) for thing in things)
    off = "" if lifted is not None else ' aria-disabled="true"'
    return (
        f'<div class="wb-slot" data-drop="lane:{lane}" data-key="lane {lane}">'
        f'<button type="button" class="wb-slotname" data-pick="lane:{lane}" tabindex="-1" aria-label="{said}"{off}>'
        f"{escape(one.label)}<span>{busy}</span>{bar}</button>"
        f'<div class="wb-things" data-things role="group" aria-label="{said}">{cells}</div></div>'
    )


def _thing(board: Board, sheet: int, thing: int, lane: int, entry: bool, lifted: bool) -> str:
    one, away = board.lanes[lane], board.lanes[lane].group == board.away
    said = f"{board.thing} {thing} on {one.label}"
    share = ""
    if board.weights:
        weight = board.weight(sheet, thing)
        said += f", {100 * weight:.1f} % of the {board.sheet}"
        share = f'<i style="width:{100 * weight / max(board.weights[sheet]):.0f}%"></i>'
    said = escape(said)
    return (
        f'<button type="button" class="wb-thing{" wb-away" if away else ""}" data-pick="thing:{thing}" data-drag '
        f'data-order="{thing}" tabindex="{0 if entry else -1}" aria-pressed="{str(lifted).lower()}" '
        f'aria-roledescription="movable" aria-label="{said}" title="{said}">{thing}{share}</button>'
    )
