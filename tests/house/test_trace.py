"""The Chrome trace: valid JSON, microseconds, a thread per lane, the decision as arguments."""

import json

from workbench.system import Span
from workbench.trace import chrome_trace

SPANS = [
    Span("compute", 0.0, 0.25, "chunk 0", "compute", {"tokens": 256}),
    Span("load", 0.1, 0.2, "chunk 9 <&\"'>", "load", {"bytes": 5.5, "why": "café"}),
    Span("compute", 0.25, 0.25, "instant", "compute"),
]


def test_trace():
    trace = json.loads(chrome_trace(iter(SPANS), "a run"))
    events = trace["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    spans = [e for e in events if e["ph"] == "X"]
    assert sorted(names.values()) == ["compute", "load"]
    assert [e["args"]["name"] for e in events if e["name"] == "process_name"] == ["a run"]
    for span, event in zip(SPANS, spans, strict=True):
        assert names[event["tid"]] == span.lane
        assert event["name"] == span.label
        assert event["cat"] == span.kind
        assert abs(event["ts"] - span.start_s * 1e6) < 1  # microseconds
        assert abs(event["dur"] - (span.end_s - span.start_s) * 1e6) < 1
        assert event["args"] == dict(span.why)
    assert {e["pid"] for e in events} == {1}


def test_no_spans_is_a_valid_trace():
    assert [e["ph"] for e in json.loads(chrome_trace([]))["traceEvents"]] == ["M"]
