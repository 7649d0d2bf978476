"""The machine in a strip: what it is, which engines it has, and folded what cannot be done here, why and what helps."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from workbench import backends
from workbench.doctor import Finding

SHOWN = ("torch", *(name for name in backends.ENGINES if name != "triton"))  # engines whose versions the strip tells


def html(findings: Iterable[Finding]) -> str:
    """The strip as HTML, of what `workbench.doctor.examine` found. Nothing here asks the machine for long."""
    found = {f.what: f for f in findings}
    facts = [
        ("processor", backends.cpu_model()),
        ("cores", f"{backends.cores()}, {backends.vector_level()}"),
        ("memory", found["memory"].detail if "memory" in found else "not known"),
        ("GPU", "; ".join(backends.gpus()) or "none"),
    ]
    engines = [(name, _version(name)) for name in SHOWN]
    return (
        f'<div class="wb-machine" role="group" aria-label="this machine">{_facts([*facts, *engines])}'
        f"{_lacking([f for f in found.values() if not f.ok])}</div>"
    )


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    cells = "".join(
        f'<li class="wb-fact"><span>{escape(what)}</span> <b>{escape(said)}</b></li>' for what, said in facts
    )
    return f'<ul class="wb-facts">{cells}</ul>'


def _version(name: str) -> str:
    packages = backends.ENGINES.get(name, (name,))
    found = ((package, backends.version(package)) for package in packages)
    told = next(((package, version) for package, version in found if version), None)
    if told is None:
        return "not installed"
    package, version = told
    return version if package == name else f"{version} ({package})"


def _lacking(absent: list[Finding]) -> str:
    """What cannot be done here, a line each, folded: what, why, how to have it."""
    if not absent:
        return '<p class="wb-quiet">Everything that the systems can use is here.</p>'
    lines = "".join(
        f"<li><b>{escape(f.what)}</b>{' (optional)' if not f.needed else ''}: {escape(f.detail)}. "
        f'<span class="wb-quiet">{escape(f.how[:1].upper() + f.how[1:])}.</span></li>'
        for f in sorted(absent, key=lambda f: not f.needed)
    )
    many = f"{len(absent)} things" if len(absent) > 1 else "One thing"
    # the notebook's own shortcuts would take Enter and Space
    return (
        f'<details data-lm-suppress-shortcuts="true"><summary>{many} cannot be done here, and why</summary>'
        f"<ul class='wb-lacking'>{lines}</ul></details>"
    )
