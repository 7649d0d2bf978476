"""Whether what is on a page can be read, and whether one sees where the focus is (looks.js, computed in the page)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

_JS = (Path(__file__).parent / "looks.js").read_text(encoding="utf-8")


def shades(part: Any) -> list[list[Any]]:
    """Texts in sight below a locator: [margin, contrast, text, where, ground, ink], worst first.

    Behind a text of a picture lies what was drawn there before it. What is disabled is left out, as in WCAG 1.4.3.
    AssertionError where there is no text at all: a check would see nothing.
    """
    found: list[list[Any]] = part.evaluate(f"(part) => {_JS}.contrasts(part)")
    assert found, "no text is in sight"
    return found


def faint(part: Any) -> list[list[Any]]:
    """Those of `shades` that cannot be read."""
    return [one for one in shades(part) if one[0] < 0]


def focus_unseen(page: Any) -> str:
    """What has the focus without showing it, "" where it shows."""
    return page.evaluate(f"() => {_JS}.unseen(document.activeElement)")


ROLES = "button checkbox combobox link listbox option radio slider spinbutton switch tab textbox img progressbar meter"


def nameless(page: Any, selector: str, at: int = 0) -> list[str]:
    """Controls and pictures that a screen reader would say no name of, by the browser's own reckoning of names.

    Below the `at`-th element of `selector`. AssertionError where there are no controls: a check would see nothing.
    """
    session = page.context.new_cdp_session(page)
    try:
        session.send("Accessibility.enable")
        found = session.send("Runtime.evaluate", {"expression": f"document.querySelectorAll({selector!r})[{at}]"})
        root = {"objectId": found["result"]["objectId"]}
        asked = (session.send("Accessibility.queryAXTree", root | {"role": role}) for role in ROLES.split())
        nodes = [n for answer in asked for n in answer["nodes"] if not n["ignored"]]
        assert nodes, f"no control is in {selector}"
        bare = [n for n in nodes if not str(n.get("name", {}).get("value", "")).strip()]
        return [_markup(session, n) for n in bare]
    finally:
        session.detach()


def _markup(session: Any, node: Any) -> str:
    told = session.send("DOM.getOuterHTML", {"backendNodeId": node["backendDOMNodeId"]})["outerHTML"]
    return f"{node['role']['value']}: {told[:160]}"


def tab_to(page: Any, script: str, key: str = "Tab", most: int = 60) -> list[str]:
    """Press Tab until `script` holds of what has the focus; what had it on the way without showing it.

    Fails where it is never reached, and tells what was passed.
    """
    look = (
        f"() => {{ const part = document.activeElement; return [Boolean(({script})(part)), {_JS}.unseen(part), "
        "(part.getAttribute('aria-label') || part.textContent || part.value || part.className).slice(0, 30)]; }"
    )
    passed, dark = [], []
    for _ in range(most):
        page.keyboard.press(key)
        there, unseen, name = page.evaluate(look)
        dark += [unseen] if unseen else []
        passed.append(name)
        if there:
            return dark
    pytest.fail(f"{most} presses of {key} did not reach {script}; they passed {passed}")


def button(name: str) -> str:
    """For `tab_to`: the button of this name."""
    return f"(part) => part.tagName === 'BUTTON' && part.textContent === {name!r}"
