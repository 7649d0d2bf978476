"""LMCache's own way with vLLM as a baseline: LMCacheMPConnector and `lmcache server`, which loads and does not compute.

The server keeps KV in shared memory, without a throttle. Both run as processes of their own: this connector works
only with vLLM's worker processes, and only with `--supported-transfer-mode auto` does it work on a CPU at all.

    python -m workbench.cake.lmcache_mp JOB.json PORT      the engine's process, which serves what comes from that port
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from workbench import leash

START_S, ANSWER_S = 240.0, 180.0
STORED_S = 2.0  # stores run behind the answer, and nothing says when they are done
CHUNK = 256


@dataclass(frozen=True)
class MpAnswer:
    """One request: TTFT, how much of the prompt came from LMCache, its greedy answer and the first token's top."""

    ttft_s: float
    loaded_tokens: int
    tokens: list[int]
    top: dict[int, float]


class MpEngine:
    """An engine with LMCacheMPConnector and its server, for as long as it is not closed.

    TimeoutError when one of them does not start or answer in time, RuntimeError when it fails; both quote a log.
    """

    def __init__(self, model: Path, longest: int, folder: Path, *, dtype: str, step: int, top: int = 20) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "engine.log"
        self._started: list[subprocess.Popen[bytes]] = []
        self._line: socket.socket | None = None
        try:
            port = self._start_server(folder / "lmcache_mp.log")
            job = {"model": str(model), "longest": longest, "port": port, "dtype": dtype, "step": step, "top": top}
            (folder / "job.json").write_text(json.dumps(job))
            self._start_engine(folder / "job.json")
            self._each(psutil.Process.suspend)
        except BaseException:
            self.close()
            raise

    def _start_server(self, log: Path) -> int:
        from workbench.cake.lmcache import await_port, free_port

        port = free_port()
        command = [sys.executable, "-m", "lmcache.cli.main", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--supported-transfer-mode", "auto", "--chunk-size", str(CHUNK), "--l1-size-gb", "1"]
        command += ["--eviction-policy", "LRU", "--http-port", str(free_port()), "--disable-observability"]
        with log.open("wb") as out:
            server = leash.start(command, out, _environment())
        self._started.append(server)
        await_port(server, port, log, "lmcache server")
        return port

    def _start_engine(self, job: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as door:
            command = [sys.executable, "-m", "workbench.cake.lmcache_mp", str(job), str(door.getsockname()[1])]
            with self._log.open("wb") as out:
                engine = leash.start(command, out, _environment())
            self._started.insert(0, engine)
            door.settimeout(0.2)
            deadline = time.monotonic() + START_S
            while self._line is None:
                with contextlib.suppress(TimeoutError):
                    self._line = door.accept()[0]
                if self._line is None and engine.poll() is not None:
                    raise RuntimeError(f"LMCacheMPConnector's engine ended with {engine.returncode}: {self._tail()}")
                if self._line is None and time.monotonic() > deadline:
                    raise TimeoutError(f"LMCacheMPConnector's engine took more than {START_S:.0f} s: {self._tail()}")
        self._line.settimeout(ANSWER_S)
        self._file = self._line.makefile("rw", encoding="utf-8")

    def ask(self, ids: list[int], tokens: int) -> MpAnswer:
        """Serve a prompt with vLLM's own prefix cache emptied before: what LMCache holds of it is loaded.

        Between two requests its processes are suspended: an idle worker of vLLM looks for work all the time.
        """
        self._each(psutil.Process.resume)
        try:
            print(json.dumps({"ids": ids, "n": tokens}), file=self._file, flush=True)
            line = self._file.readline()
        except TimeoutError:
            raise TimeoutError(f"LMCacheMPConnector gave no answer for {ANSWER_S:.0f} s: {self._tail()}") from None
        self._each(psutil.Process.suspend)
        if not line:
            raise RuntimeError(f"LMCacheMPConnector's engine is gone: {self._tail()}")
        found = json.loads(line)
        return MpAnswer(**found | {"top": {int(k): v for k, v in found["top"].items()}})

    def store(self, ids: list[int]) -> MpAnswer:
        """Serve a prompt for the first time, and wait until LMCache should have it."""
        answer = self.ask(ids, 1)
        self._each(psutil.Process.resume)
        time.sleep(STORED_S)
        return answer

    def _each(self, do: Callable[[psutil.Process], None]) -> None:
        """Suspend or resume everything but the leashes, which must see their owner end."""
        for leashed in self._started:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in psutil.Process(leashed.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        do(process)

    def close(self) -> None:
        """End the engine and the server, and everything that they started."""
        if self._line is not None:
            self._line.close()
        for process in self._started:
            leash.end(process)

    def _tail(self) -> str:
        return " | ".join(self._log.read_text(errors="replace").splitlines()[-6:])[-1200:]


def _environment() -> dict[str, str]:
    return os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "LMCACHE_TRACK_USAGE": "false",
        "TORCHDYNAMO_DISABLE": "1",
    }


def _engine(job: dict[str, Any]) -> Any:
    from vllm import LLM
    from vllm.config import KVTransferConfig

    extra = {"lmcache.mp.host": "tcp://127.0.0.1", "lmcache.mp.port": job["port"]}
    return LLM(
        job["model"],
        dtype=job["dtype"],
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=job["longest"],
        max_num_batched_tokens=job["step"],
        max_num_seqs=4,
        disable_hybrid_kv_cache_manager=True,
        kv_transfer_config=KVTransferConfig(
            kv_connector="LMCacheMPConnector", kv_role="kv_both", kv_connector_extra_config=extra
        ),
    )


def _serve(llm: Any, ids: list[int], tokens: int, top: int, name: str) -> dict[str, Any]:
    from vllm import SamplingParams

    asked = SamplingParams(temperature=0, max_tokens=tokens, logprobs=top, ignore_eos=True, detokenize=False)
    llm.reset_prefix_cache()
    engine, first, output = llm.llm_engine, 0.0, None
    began = time.monotonic()
    engine.add_request(name, {"prompt_token_ids": ids}, asked)
    while engine.has_unfinished_requests():
        if outputs := engine.step():
            output, first = outputs[0], first or time.monotonic() - began
    assert output is not None
    return {
        "ttft_s": first,
        "loaded_tokens": output.num_cached_tokens or 0,
        "tokens": list(output.outputs[0].token_ids),
        "top": {k: float(v.logprob) for k, v in output.outputs[0].logprobs[0].items()},
    }


def main() -> None:
    """Start an engine for the job, answer requests until the other side hangs up."""
    job = json.loads(Path(sys.argv[1]).read_text())
    llm = _engine(job)
    with socket.create_connection(("127.0.0.1", int(sys.argv[2]))) as line, line.makefile("rw") as file:
        for count, asked in enumerate(map(json.loads, file)):
            print(json.dumps(_serve(llm, asked["ids"], asked["n"], job["top"], f"r{count}")), file=file, flush=True)
    os._exit(0)  # the engine's processes are ended from outside


if __name__ == "__main__":
    main()
