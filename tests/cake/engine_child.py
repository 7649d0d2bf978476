"""A vLLM engine in a process of its own, driven over a pipe: engines do not share a process, nor their environment.

    with Engine(model, folder, settings, **engine arguments) as engine:
        answer = engine.run([Ask(ids, "cake")])[0]

Run as a program, this file is that process.
"""

import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Listener
from pathlib import Path

START_S, CALL_S = 180, 120
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "LMCACHE_TRACK_USAGE": "false",
    "PYTHONHASHSEED": "0",
}


@dataclass
class Ask:
    ids: list
    mode: str = "compute"
    more: dict = field(default_factory=dict)
    max_tokens: int = 6
    abort_after_s: float | None = None
    sampling: dict = field(default_factory=dict)


@dataclass
class Answer:
    tokens: list
    logprobs: list  # of the chosen tokens
    top: dict  # of the first token: id -> logprob
    cake: dict
    ttft_s: float


class Engine:
    """The parent's end."""

    def __init__(self, model, folder, settings=None, environment=None, **arguments):
        address = str(Path(folder).parent / f"engine-{os.getpid()}-{time.monotonic_ns()}")
        self.log = open(address + ".log", "w+")  # noqa: SIM115  closed in close()
        listener = Listener(address, "AF_UNIX")
        listener._listener._socket.settimeout(START_S)
        env = os.environ | ENVIRONMENT | (environment or {})
        root = str(Path(__file__).parents[2])
        env["PYTHONPATH"] = root + os.pathsep + env.get("PYTHONPATH", "")
        self.process = subprocess.Popen(
            [sys.executable, __file__, address], stdout=self.log, stderr=self.log, env=env, start_new_session=True
        )
        try:
            self.pipe = listener.accept()
            self.pipe.send((str(model), str(folder), settings or {}, arguments))
            self.told(START_S)
        except BaseException:
            self.close()
            raise
        finally:
            listener.close()

    def told(self, timeout_s=CALL_S):
        if not self.pipe.poll(timeout_s):
            raise TimeoutError(f"the engine did not answer in {timeout_s} s\n{self.output()}")
        try:
            kind, value = self.pipe.recv()
        except EOFError:
            raise RuntimeError(f"the engine's process ended\n{self.output()}") from None
        if kind == "error":
            raise RuntimeError(f"{value}\n{self.output()}")
        return value

    def call(self, op, *args):
        self.pipe.send((op, args))
        return self.told()

    def start(self, asks, **how):
        """Begin a run; its answers come by told()."""
        self.pipe.send(("run", (asks, how)))

    def run(self, asks, **how):
        return self.call("run", asks, how)

    def one(self, ids, mode="compute", sampling=None, max_tokens=6, **more):
        return self.run([Ask(ids, mode, more, max_tokens, sampling=sampling or {})])[0]

    def output(self):
        self.log.flush()
        return Path(self.log.name).read_text()[-6000:]

    def close(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def draw_ids(tokens, seed=0):
    import random

    draw = random.Random(seed)
    return [draw.randrange(3, 500) for _ in range(tokens)]


# -- the child ---------------------------------------------------------------------------------------------------


class Child:
    def __init__(self, model, folder, settings, arguments):
        from vllm import LLM

        from workbench.cake.vllm import cake_engine_args

        defaults = {"enforce_eager": True, "max_num_batched_tokens": 512, "max_num_seqs": 4, "dtype": "float32"}
        cake = {} if settings.get("plain") else cake_engine_args(folder, **settings)
        self.llm = LLM(model, **(defaults | arguments | cake))
        self.engine = self.llm.llm_engine
        self.core = self.engine.engine_core.engine_core if hasattr(self.engine.engine_core, "engine_core") else None
        self.count = 0
        self.undo = []
        self.steps = self.preempted = 0
        self.aborted = None  # the step of the last abort
        self.count_preemptions()

    def count_preemptions(self):
        scheduler = self.core.scheduler
        preempt = scheduler._preempt_request

        def counted(*args, **kwargs):
            self.preempted += 1
            return preempt(*args, **kwargs)

        scheduler._preempt_request = counted

    def run(self, asks, how):
        """Add every request at once, step until all are done or aborted. how: keep, preempt_after (steps)."""
        if not how.get("keep"):
            assert self.llm.reset_prefix_cache()
        ids, began, answers = {}, time.monotonic(), [None] * len(asks)
        self.aborted = None
        stepped, first, preempt = self.steps, {}, list(how.get("preempt_after", []))
        for i, ask in enumerate(asks):
            self.count += 1
            ids[f"t{self.count}"] = i
            self.engine.add_request(f"t{self.count}", {"prompt_token_ids": ask.ids}, self.sampling(ask))
        while self.engine.has_unfinished_requests():
            at = time.monotonic() - began
            if at > CALL_S - 10:
                raise TimeoutError("the engine makes no end")
            late = [k for k, i in ids.items() if asks[i].abort_after_s is not None and at >= asks[i].abort_after_s]
            if late:
                self.aborted = self.steps
                self.engine.abort_request(late)
                for k in late:
                    ids.pop(k)
            if preempt and self.steps - stepped >= preempt[0]:
                preempt.pop(0)
                self.core.scheduler.reset_prefix_cache(reset_running_requests=True)
            self.steps += 1
            for output in self.engine.step():
                if output.request_id not in ids:
                    continue
                i = ids[output.request_id]
                first.setdefault(i, time.monotonic() - began)
                if output.finished:
                    answers[i] = self.answer(output, first[i])
        return answers

    def sampling(self, ask):
        from vllm import SamplingParams

        from workbench.cake.vllm import cake_params

        extra = {"logprobs": 5, "ignore_eos": True, "detokenize": False} | ask.sampling
        more = cake_params(ask.mode, **ask.more) if ask.mode != "plain" else None
        return SamplingParams(temperature=0, max_tokens=ask.max_tokens, extra_args=more, **extra)

    def answer(self, output, ttft_s):
        done = output.outputs[0]
        lines = done.logprobs or [{}]
        chosen = [float(line[t].logprob) for line, t in zip(lines, done.token_ids)] if done.logprobs else []
        top = {k: float(v.logprob) for k, v in lines[0].items()}
        cake = (output.kv_transfer_params or {}).get("cake", {})
        return Answer(list(done.token_ids), chosen, top, cake, ttft_s)

    def flush(self):
        """Wait until everything computed is in the store."""
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        saver = get_kv_transfer_group().saver
        assert saver.flush()
        return dict(saver.counts)

    def reset_connector(self):
        assert self.core.scheduler.reset_prefix_cache(reset_connector=True)

    def restore_epoch(self):
        book = self.core.scheduler.connector.book
        book.epoch = ""
        book.store = book.open_store("")

    def stop_loads(self):
        """After a fault that left loads behind."""
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        loader = get_kv_transfer_group().loader
        for name in list(loader._tasks):
            loader.close(name)

    def drain(self):
        """Step an idle engine until no request waits for its blocks to be free."""
        end = time.monotonic() + 20
        while self.core.scheduler.has_finished_requests() and time.monotonic() < end:
            self.core.step()
        return not self.core.scheduler.has_finished_requests()

    def state(self):
        """Threads, free blocks, shared files and jobs that are left."""
        import threading

        connector = self.core.scheduler.connector
        book = connector.book
        pool = self.core.scheduler.kv_cache_manager.block_pool
        return {
            "threads": sorted(t.name for t in threading.enumerate() if t.name.startswith("cake")),
            "free_blocks": pool.get_num_free_blocks(),
            "jobs": len(book.lives),
            "draining": len(book.draining),
            "segments": sorted(p.name for p in book.folder.iterdir()),
            "costs": book.learner.costs,
            "totals": dict(book.totals),
            "steps": self.steps,
            "preempted": self.preempted,
            "layout": connector.layout,
            "fingerprint": connector.fingerprint,
        }

    def fault(self, name, *args):  # noqa: C901
        """Break something on purpose, until `mend`."""
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        from workbench.cake import vllm_loader
        from workbench.cake.ledger import Ledger

        def swap(owner, attribute, value):
            old = getattr(owner, attribute)
            self.undo.append((owner, attribute, old))
            setattr(owner, attribute, value)
            return old

        if name == "slow write":
            write = vllm_loader.KvBlocks.write

            def slowly(kv, blocks, values):
                write(kv, blocks, values)
                time.sleep(args[0])
                write(kv, blocks, values)

            swap(vllm_loader.KvBlocks, "write", slowly)
        elif name == "late write":  # it ends so many steps after an abort
            write = vllm_loader.KvBlocks.write

            def late(kv, blocks, values):
                write(kv, blocks, values)
                end = time.monotonic() + 20
                while (self.aborted is None or self.steps < self.aborted + args[0]) and time.monotonic() < end:
                    time.sleep(0.001)
                write(kv, blocks, values)

            swap(vllm_loader.KvBlocks, "write", late)
        elif name == "loader dies":
            read = vllm_loader.Loader._read
            left = [args[0]]

            def dies(loader, task, step):
                if left[0] == 0:
                    raise SystemExit("killed by the test")
                left[0] -= 1
                read(loader, task, step)

            swap(vllm_loader.Loader, "_read", dies)
        elif name == "read hangs":
            one = vllm_loader.Loader._one

            def hangs(loader, task, grain, arrives_s):
                time.sleep(args[0])
                return one(loader, task, grain, arrives_s)

            swap(vllm_loader.Loader, "_one", hangs)
        elif name == "no close":  # what a preempted or aborted request must not do: leave its loader alone
            swap(Ledger, "close", lambda _ledger: None)
            swap(vllm_loader.Loader, "close", lambda _loader, _name: None)
        elif name == "no wait":
            swap(Ledger, "writing", lambda _ledger: False)
        elif name == "flip cached":  # change a block's KV behind vLLM's back
            kv = get_kv_transfer_group().loader.kv
            for layer in kv._layers:
                layer[:, :, :, :, :] = layer.flip(0)
        else:
            raise ValueError(name)

    def mend(self):
        for owner, attribute, old in reversed(self.undo):
            setattr(owner, attribute, old)
        self.undo.clear()


def main(address):
    pipe = Client(address, "AF_UNIX")
    try:
        child = Child(*pipe.recv())
        pipe.send(("ok", None))
    except BaseException:
        pipe.send(("error", traceback.format_exc()))
        raise
    while True:
        try:
            op, args = pipe.recv()
        except EOFError:
            return
        try:
            reply = "ok", getattr(child, op)(*args)
            pickle.dumps(reply)
        except Exception:
            reply = "error", traceback.format_exc()
        pipe.send(reply)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    import engine_child  # the classes that come over the pipe are this module's, not __main__'s

    engine_child.main(sys.argv[1])
