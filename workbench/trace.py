"""Spans to the Chrome trace format, which chrome://tracing and ui.perfetto.dev open.

A trace is of what took time: progress, points, notes, graphs, texts and what was offered and done are not in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from workbench.system import Span


def chrome_trace(spans: Iterable[Span], title: str = "workbench") -> str:
    """JSON text: one complete event ("ph": "X", microseconds) a span, one thread a lane, `why` as its arguments."""
    spans = list(spans)
    lanes = {lane: tid for tid, lane in enumerate(dict.fromkeys(s.lane for s in spans))}
    names = [{"ph": "M", "pid": 1, "name": "process_name", "args": {"name": title}}]
    names += [{"ph": "M", "pid": 1, "tid": t, "name": "thread_name", "args": {"name": n}} for n, t in lanes.items()]
    events = [
        {
            "ph": "X",
            "pid": 1,
            "tid": lanes[s.lane],
            "name": s.label,
            "cat": s.kind,
            "ts": round(s.start_s * 1e6, 3),
            "dur": round((s.end_s - s.start_s) * 1e6, 3),
            "args": dict(s.why),
        }
        for s in spans
    ]
    return json.dumps({"traceEvents": names + events, "displayTimeUnit": "ms"})
