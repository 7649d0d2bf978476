"""Systems put together, each pair through its public interfaces: what nobody has measured of them yet.

migrate.py  RLBoost's migration with CAKE: a dead engine's KV checkpoint is loaded or recomputed, from both ends
union.py    Plato's branches under LTE: do siblings need the same experts more than strangers do?
join.py     Foundry's archive as what it takes to join RLBoost: throughput and dollars by way of starting

checkpoint.py  whole grains into CAKE's store as an engine of RLBoost decodes, in a process that may die

A system does not import another; these files do, and nobody imports them. Each measures a result with `to_frame()`,
`figure()` and `sentence()`, and the control beside it.
"""

from __future__ import annotations

from typing import Any

__all__ = ["join", "migrate", "union"]


def __getattr__(name: str) -> Any:
    """The modules, when they are first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return import_module(f"workbench.combine.{name}")
