"""Sliders of ipywidgets whose range changes."""

from __future__ import annotations

from typing import Any


def take_place(box: Any, old: Any, new: Any) -> Any:
    """`new` stands where `old` stood in `box`, and is returned; `old` is closed.

    For the key End goes to the end that a slider was made with, whatever its range is now.
    """
    box.children = tuple(new if one is old else one for one in box.children)
    old.close()
    return new
