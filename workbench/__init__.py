"""Published ML-systems and HPC papers as running code.

    import workbench as wb
    result = wb.run("cake", preset="small")     # blocks, returns the Result
    run = wb.start("cake", link_mb_s=30)        # returns at once: .state .cancel() .wait() .result .error
    wb.open("cake"); wb.open()                  # the panel of one; all of them, this machine and the history
    wb.compare(a, b); wb.history("cake"); wb.systems()
    wb.claims()                                 # every published number beside ours

Importing this loads no torch, plotly, vllm or ray: each name below is fetched when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["claims", "compare", "history", "open", "run", "start", "systems"]

if TYPE_CHECKING:
    from workbench.claimed import claims
    from workbench.records import history
    from workbench.runner import run, start
    from workbench.system import systems
    from workbench.ui.compare import compare
    from workbench.ui.dashboard import open_view as open

_HOME = {
    "claims": "workbench.claimed:claims",
    "run": "workbench.runner:run",
    "start": "workbench.runner:start",
    "open": "workbench.ui.dashboard:open_view",
    "compare": "workbench.ui.compare:compare",
    "history": "workbench.records:history",
    "systems": "workbench.system:systems",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _HOME[name].split(":")
    found = getattr(import_module(module), attribute)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
