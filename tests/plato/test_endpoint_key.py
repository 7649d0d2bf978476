"""An endpoint's key as it lies in the environment, in no error however it is quoted; and how long it is waited for."""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bad_server import KEY, SECRET

from workbench.plato.endpoint import open_endpoint
from workbench.plato.endpoint_stream import CONNECT_S, Server
from workbench.plato.engine import Ask, EngineError


def test_a_key_that_ends_in_a_new_line_is_the_same_key(server, monkeypatch):
    """As a file leaves it that was read whole; no header may hold one."""
    monkeypatch.setenv(KEY, f" {SECRET}\r\n")
    engine = open_endpoint(server.url, "good", KEY, 5.0)
    try:
        engine.start(Ask("a", tuple(engine.chat("s", "q")), 64))
        outs, deadline = [], time.monotonic() + 20
        while engine.running() and time.monotonic() < deadline:
            outs += engine.step()
    finally:
        engine.close()
    assert outs[-1].ended == "stop"
    assert server.headers["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("key", [SECRET, "sk-first\nsecond", 'sk-"quoted"\\', "sk-two words"])
def test_the_key_is_hidden_where_it_is_quoted_and_where_the_text_is_cut(key):
    hide = Server("http://x/v1", "m", False, 0, 1.0, key).hide
    assert hide(f"Illegal header value {key!r}, it says").replace('"', "'") == "Illegal header value '***', it says"
    assert hide(f"no  such\nkey: {key}.") == "no such key: ***."
    for before in range(270, 300):
        assert hide("x" * before + key + "y" * 50)[before:].strip("y") == "***"[: 300 - before]
    assert hide("z" * 400) == "z" * 300
    assert Server("http://x/v1", "m", False, 0, 1.0).hide("a  key") == "a key"  # without one there is nothing to hide


def test_a_key_that_no_header_may_hold_is_not_in_the_error(server, monkeypatch):
    monkeypatch.setenv(KEY, "sk-first\nsecond")
    with pytest.raises(EngineError) as failed:
        open_endpoint(server.url, "good", KEY, 5.0)
    assert "sk-first" not in str(failed.value)
    assert "second" not in str(failed.value)


def test_it_is_waited_for_as_long_as_its_own_limit_says(server):
    engine = open_endpoint(server.url, "good", KEY, 900.0)
    try:
        assert engine.patience_s == 900 + 2 * CONNECT_S
    finally:
        engine.close()
