"""vLLM's OpenAI server with SmolLM2: scheduler and worker are two processes, claims live in memory they share."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed: make setup")
sys.path.insert(0, str(Path(__file__).parent))

from engine_child import ENVIRONMENT

from workbench import lm
from workbench.cake.store import Layout

pytestmark = [pytest.mark.vllm, pytest.mark.model, pytest.mark.timeout(400)]

TOKENS, GRAIN, START_S = 1350, 128, 240
LOADABLE = (TOKENS - 1) // GRAIN * GRAIN
LAYOUT = Layout(30, 3, GRAIN, 64, "float32")
SLOW = 20.0  # MB/s: a grain of 5.9 MB takes 0.3 s


class Server:
    def __init__(self, folder):
        self.folder, self.log = folder, folder / "log.txt"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        transfer = {
            "kv_connector": "CakeConnector",
            "kv_connector_module_path": "workbench.cake.vllm",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {"folder": str(folder / "kv"), "shared": str(folder)},
        }
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(lm.path("smollm2"))]
        command += ["--port", str(self.port), "--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager"]
        command += ["--max-model-len", "2048", "--max-num-seqs", "4", "--max-num-batched-tokens", "256"]
        command += ["--served-model-name", "m", "--no-enable-prefix-caching"]
        command += [
            "--scheduler-cls",
            "workbench.cake.vllm.CakeScheduler",
            "--kv-transfer-config",
            json.dumps(transfer),
        ]
        env = os.environ | ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                if self.call("GET", "/health", timeout=2)[0] == 200:
                    return
            time.sleep(0.5)
        self.close()
        raise TimeoutError(f"the server did not start: {self.log.read_text()[-3000:]}")

    def call(self, method, path, body=None, timeout=120):
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            head = {"Content-Type": "application/json"}
            line.request(method, path, json.dumps(body) if body else None, head)
            answer = line.getresponse()
            return answer.status, answer.read()
        finally:
            line.close()

    def complete(self, ids, mode, timeout=120, **more):
        body = {"model": "m", "prompt": ids, "max_tokens": 6, "temperature": 0, "logprobs": 1}
        body["kv_transfer_params"] = {"cake": mode, "cut": True, **more}
        status, content = self.call("POST", "/v1/completions", body, timeout)
        assert status == 200, content
        answer = json.loads(content)
        choice = answer["choices"][0]
        return choice["text"], choice["logprobs"]["token_logprobs"], answer["kv_transfer_params"]["cake"]

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    started = Server(tmp_path_factory.mktemp("server"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def ids():
    return lm.prompt(lm.load("smollm2"), TOKENS, 0)


def near(one, two):
    return max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-3


def test_every_mode_over_http(server, ids):
    text, logprobs, cake = server.complete(ids, "compute")
    assert cake["loaded_tokens"] == 0
    deadline = time.monotonic() + 30
    while len(list((server.folder / "kv").glob("*.kv"))) < TOKENS // GRAIN and time.monotonic() < deadline:
        time.sleep(0.1)
    same, again, cake = server.complete(ids, "load")
    assert cake["loaded_tokens"] == LOADABLE
    assert (same, again) == (text, logprobs)  # the same KV, the same last pass: the same bits
    same, again, cake = server.complete(ids, "cake", link_mb_s=SLOW, trace=True)
    assert 0 < cake["meeting_token"] < LOADABLE
    assert {s["lane"] for s in cake["spans"]} == {"compute", "load"}
    assert same == text
    assert near(again, logprobs)
    shared = list(server.folder.glob("workbench-cake-*/*"))
    assert shared == []  # no ledger outlives its request

    with pytest.raises(TimeoutError):  # the client goes away in the middle of the loads
        server.complete(ids, "load", timeout=1.0, link_mb_s=SLOW / 10)
    same, again, _ = server.complete(ids, "compute")
    assert same == text
    assert near(again, logprobs)

    files = sorted((server.folder / "kv").glob("*.kv"))
    for path in files:  # the control: noise under a valid checksum
        rewrite_as_noise(path)
    other, again, cake = server.complete(ids, "load")
    assert cake["loaded_tokens"] == LOADABLE
    assert other != text or not near(again, logprobs)


def rewrite_as_noise(path):
    """Keep a grain's header and put noise under it, with the checksums that belong to that."""
    from workbench.cake import store as layout_of

    content = path.read_bytes()
    fields = list(layout_of._HEADER.unpack(content[: layout_of._HEADER.size]))
    kv = torch.frombuffer(bytearray(content[layout_of.HEADER_BYTES :]), dtype=torch.float32)
    assert len(kv) * 4 == LAYOUT.nbytes
    noise = (torch.randn(len(kv)) * kv.std()).numpy().tobytes()
    fields[-1] = layout_of.xxhash.xxh3_64_intdigest(noise)
    packed = layout_of._HEADER.pack(*fields)
    check = layout_of._CHECK.pack(layout_of.xxhash.xxh3_64_intdigest(packed))
    path.write_bytes((packed + check).ljust(layout_of.HEADER_BYTES, b"\0") + noise)


def test_a_killed_engine_leaves_memory_that_the_next_one_frees(tmp_path):
    from workbench.cake.vllm_shared import PREFIX, Segment, make_folder, sweep

    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left, mine = tmp_path / f"{PREFIX}{int(gone.stdout)}-abcd", tmp_path / f"{PREFIX}{os.getpid()}-abcd"
    for folder in (left, mine):
        folder.mkdir()
        Segment.create(folder / "1", 4, [True] * 4).close()
    assert sweep(tmp_path) == [left]
    assert not left.exists()
    assert mine.exists()  # the control: a living engine's stays
    assert make_folder(str(tmp_path)).parent == tmp_path
