"""LMCache's own way with vLLM as a baseline: LMCacheMPConnector and `lmcache server`, which loads and does not compute.

The server keeps KV in shared memory, without a throttle. Both run as processes of their own: this connector works
only with vLLM's worker processes, and only with `--supported-transfer-mode auto` does it work on a CPU at all.

    python -m workbench.cake.lmcache_mp JOB.json RESULT.json      the engine's process
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.cake import leash

RUN_S = 420.0
CHUNK = 256


@dataclass(frozen=True)
class MpRun:
    """compute_s: TTFT of the first request, which stores; load_s: of the second, which loads; both greedy answers."""

    compute_s: float
    load_s: float
    loaded_tokens: int
    tokens: list[int]
    loaded_answer: list[int]
    top: dict[int, float]


def measure_lmcache_mp(
    model: Path, ids: list[int], folder: Path, *, dtype: str, step: int, answer_tokens: int = 8, top: int = 20
) -> MpRun:
    """Compute and store a prompt, forget it in vLLM, load it again. Every process is ended, whatever happens.

    TimeoutError when the server or the engine takes too long, RuntimeError when the engine fails; both quote a log.
    """
    from workbench.cake.lmcache import await_port, free_port

    folder.mkdir(parents=True, exist_ok=True)
    port, http, logs = free_port(), free_port(), (folder / "lmcache_mp.log", folder / "engine.log")
    job, result = folder / "job.json", folder / "result.json"
    job.write_text(
        json.dumps(
            {
                "model": str(model),
                "ids": ids,
                "port": port,
                "dtype": dtype,
                "step": step,
                "n": answer_tokens,
                "top": top,
            }
        )
    )
    command = [sys.executable, "-m", "lmcache.cli.main", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--supported-transfer-mode", "auto", "--chunk-size", str(CHUNK), "--l1-size-gb", "1"]
    command += ["--eviction-policy", "LRU", "--http-port", str(http), "--disable-observability"]
    environment = dict(os.environ) | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "LMCACHE_TRACK_USAGE": "false",
        "TORCHDYNAMO_DISABLE": "1",
    }
    with logs[0].open("wb") as server_log, logs[1].open("wb") as engine_log:
        server = leash.start(command, server_log, environment)
        engine = None
        try:
            await_port(server, port, logs[0], "lmcache server")
            engine = leash.start(
                [sys.executable, "-m", "workbench.cake.lmcache_mp", str(job), str(result)], engine_log, environment
            )
            code = engine.wait(RUN_S)
            if code or not result.exists():
                raise RuntimeError(f"LMCacheMPConnector ended with code {code}: {_tail(logs[1])}")
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"LMCacheMPConnector took more than {RUN_S:.0f} s: {_tail(logs[1])}") from None
        finally:
            for process in (engine, server):
                if process is not None:
                    leash.end(process)
    found = json.loads(result.read_text())
    return MpRun(**found | {"top": {int(k): v for k, v in found["top"].items()}})


def _tail(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-6:])[-1200:]


def _serve(job: dict[str, Any]) -> dict[str, Any]:
    """The engine's process: the same prompt twice, vLLM's own prefix cache emptied between."""
    from vllm import LLM, SamplingParams
    from vllm.config import KVTransferConfig

    extra = {"lmcache.mp.host": "tcp://127.0.0.1", "lmcache.mp.port": job["port"]}
    llm = LLM(
        job["model"],
        dtype=job["dtype"],
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=len(job["ids"]) + 64,
        max_num_batched_tokens=job["step"],
        max_num_seqs=4,
        disable_hybrid_kv_cache_manager=True,
        kv_transfer_config=KVTransferConfig(
            kv_connector="LMCacheMPConnector", kv_role="kv_both", kv_connector_extra_config=extra
        ),
    )

    def ask(tokens: int) -> tuple[float, Any]:
        asked = SamplingParams(temperature=0, max_tokens=tokens, logprobs=job["top"], ignore_eos=True, detokenize=False)
        began = time.monotonic()
        done = llm.generate([{"prompt_token_ids": job["ids"]}], asked, use_tqdm=False)[0]
        return time.monotonic() - began, done

    compute_s, first = ask(1)
    time.sleep(2.0)  # stores run behind the answer
    llm.reset_prefix_cache()
    load_s, second = ask(1)  # one token: the time of the answer is the time to the first token
    loaded = second.num_cached_tokens or 0
    answer = ask(job["n"])[1]
    return {
        "compute_s": compute_s,
        "load_s": load_s,
        "loaded_tokens": loaded,
        "tokens": list(first.outputs[0].token_ids),
        "loaded_answer": list(answer.outputs[0].token_ids),
        "top": {k: float(v.logprob) for k, v in second.outputs[0].logprobs[0].items()},
    }


def main() -> None:
    """Read a job, serve it, write what was found."""
    job = json.loads(Path(sys.argv[1]).read_text())
    found = _serve(job)
    aside = Path(sys.argv[2] + ".tmp")
    aside.write_text(json.dumps(found))
    aside.rename(sys.argv[2])
    os._exit(0)  # the engine's processes are ended from outside


if __name__ == "__main__":
    main()
