"""LMCache 0.5 as the KV store, on CPU: through its engine, grain by grain, in memory, on disk or on its server.

A chunk of LMCache is a grain of ours and one token more (below). Its key is our chained key (store.grain_keys) given
to LMCache as the chunk's hash, so it holds the model and the whole prefix and depends on no PYTHONHASHSEED. LMCache
keeps no checksums, so every chunk carries ours in the place of its last token, and every read is checked, whoever
wrote it.

What does not outlive the process: "ram", and also "disk". LMCache's disk backend writes files but keeps their index
in memory; a second process on the same folder finds nothing, so the folder is removed at the end. Only "server"
(lmcache_server, protocol lm://) is shared and stays as long as the server does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("LMCACHE_TRACK_USAGE", "false")  # both are read when LMCache is imported
os.environ.setdefault("LMCACHE_LOG_LEVEL", "WARNING")

import numpy as np
import torch
import xxhash

from workbench import leash
from workbench.backends import BackendUnavailable, version
from workbench.cake.store import Layout, StoreError, grain_keys

VERSION = "0.5."
FORMAT = b"1"  # of an object; part of its key, so that another format is not found
TIERS = ("ram", "disk", "server")
START_S, WRITE_S = 90.0, 10.0
BUFFER_GB, RAM_GB = 0.5, 2.0  # of LMCache's memory: to stage reads and writes, or to keep everything


class CpuConnector:
    """LMCache's GPUConnectorInterface for CPU tensors: one grain at a time, given as `kv` [layers, 2, heads, T, dim].

    LMCache's own object is [2, layers, T + 1, heads * dim]; the last token of its first layer begins with the xxh3 of
    the KV as `kv` has it.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def initialize_kvcaches_ptr(self, **kwargs: Any) -> None:
        """Nothing is registered: every call carries its tensor."""

    def from_gpu(self, memory_obj: Any, start: int, end: int, **kwargs: Any) -> None:  # noqa: ARG002
        """Fill LMCache's object from `kv`, with its checksum."""
        kv, whole = kwargs["kv"], self._view(memory_obj)
        whole[:, :, : self.layout.tokens].copy_(self._flat(kv))
        whole[:, :, self.layout.tokens].zero_()
        _bytes(whole[0, 0, self.layout.tokens])[:8] = np.frombuffer(_sum(kv).to_bytes(8, "little"), np.uint8)

    def to_gpu(self, memory_obj: Any, start: int, end: int, **kwargs: Any) -> None:  # noqa: ARG002
        """Fill `kv` from LMCache's object, unchecked."""
        self.unseal(memory_obj, kwargs["kv"])

    def unseal(self, memory_obj: Any, kv: torch.Tensor) -> bool:
        """Fill `kv` from LMCache's object; whether it is what was sealed."""
        whole, one = self._view(memory_obj), self.layout
        parts = whole[:, :, : one.tokens].reshape(2, one.layers, one.tokens, one.kv_heads, one.head_dim)
        kv.copy_(parts.permute(1, 0, 3, 2, 4))
        return _sum(kv) == int.from_bytes(_bytes(whole[0, 0, one.tokens])[:8].tobytes(), "little")

    def batched_from_gpu(self, memory_objs: Any, starts: Any, ends: Any, **kwargs: Any) -> None:
        for memory_obj, start, end in zip(memory_objs, starts, ends, strict=True):
            self.from_gpu(memory_obj, start, end, **kwargs)

    def batched_to_gpu(self, memory_objs: Any, starts: Any, ends: Any, **kwargs: Any) -> None:
        for memory_obj, start, end in zip(memory_objs, starts, ends, strict=True):
            self.to_gpu(memory_obj, start, end, **kwargs)

    def get_shape(self, num_tokens: int) -> torch.Size:
        """Shape of LMCache's object for `num_tokens` tokens."""
        one = self.layout
        return torch.Size([2, one.layers, num_tokens, one.kv_heads * one.head_dim])

    def _view(self, memory_obj: Any) -> torch.Tensor:
        view: torch.Tensor = memory_obj.tensor.view(self.get_shape(self.layout.tokens + 1))
        return view

    def _flat(self, kv: torch.Tensor) -> torch.Tensor:
        """[layers, 2, heads, T, dim] as [2, layers, T, heads * dim]."""
        return kv.permute(1, 0, 3, 2, 4).flatten(3)


class LMCacheStore:
    """A Store whose grains are LMCache's chunks. Safe to use from several threads."""

    def __init__(
        self, tier: str, layout: Layout, fingerprint: str, folder: Path, address: str, limit_mb: float | None
    ) -> None:
        from lmcache.v1.cache_engine import LMCacheEngineBuilder
        from lmcache.v1.gpu_connector import GPUConnectorInterface
        from lmcache.v1.metadata import LMCacheMetadata

        self.tier, self.layout, self.fingerprint = tier, layout, fingerprint
        self.users, self.server = 1, None if address or tier != "server" else start_server(folder)
        self._folder = Path(tempfile.mkdtemp(prefix="lmcache-", dir=folder)) if tier == "disk" else None
        self._lock = threading.Lock()  # LMCache's allocator is its own; one store call at a time is its promise
        address = self.server.address if self.server else address
        self._id = f"workbench-{uuid.uuid4().hex[:12]}"
        metadata = LMCacheMetadata(
            model_name=fingerprint,
            world_size=1,
            local_world_size=1,
            worker_id=0,
            local_worker_id=0,
            kv_dtype=getattr(torch, layout.dtype),
            kv_shape=(layout.layers, 2, layout.tokens + 1, layout.kv_heads, layout.head_dim),
            chunk_size=layout.tokens + 1,
            role="worker",
        )
        connector = type("Connector", (CpuConnector, GPUConnectorInterface), {})(layout)
        self._connector = connector
        try:
            self.engine = LMCacheEngineBuilder.get_or_create(
                self._id, self._config(address, limit_mb), metadata, connector, lambda t, _: t, lambda o, _: o
            )
            self.engine.post_init()
        except BaseException:
            self._leave()
            raise
        self._where = {"ram": "LocalCPUBackend", "disk": "LocalDiskBackend", "server": "RemoteBackend"}[tier]

    def _config(self, address: str, limit_mb: float | None) -> Any:
        from lmcache.v1.config import LMCacheEngineConfig

        limit_gb = limit_mb / 1e3 if limit_mb else None
        given: dict[str, Any] = {"chunk_size": self.layout.tokens + 1, "local_cpu": self.tier == "ram"}
        given["max_local_cpu_size"] = (limit_gb or RAM_GB) if self.tier == "ram" else BUFFER_GB
        if self._folder is not None:
            given |= {"local_disk": str(self._folder), "max_local_disk_size": limit_gb or 20.0}
        if self.tier == "server":
            given |= {"remote_url": f"lm://{address}", "remote_serde": "naive", "blocking_timeout_secs": int(WRITE_S)}
        return LMCacheEngineConfig.from_defaults(**given)

    def prompt(self, ids: Sequence[int]) -> LMCachePrompt:
        """Look every whole grain of the prompt up."""
        keys = grain_keys(ids, self.layout, self.fingerprint)
        return LMCachePrompt(self, keys, [self.has(key) for key in keys])

    def key(self, key: bytes) -> Any:
        """LMCache's key of a grain."""
        hashed = int.from_bytes(hashlib.blake2b(FORMAT + key, digest_size=8).digest(), "big") >> 1  # signed 64 bits
        tokens = self.layout.tokens + 1
        ((_, _, made),) = self.engine.token_database.process_tokens(hashes=[hashed], offsets=[tokens])
        return made

    def has(self, key: bytes) -> bool:
        """Whether the tier has a grain; False when it does not answer."""
        with contextlib.suppress(Exception):
            return self.engine.storage_manager.contains(self.key(key), [self._where]) is not None
        return False

    def close(self) -> None:
        """End LMCache's engine, its files and its server, when the last user closes."""
        self.users -= 1
        if self.users > 0:
            return
        for key in [key for key, store in _OPEN.items() if store is self]:
            del _OPEN[key]
        from lmcache.v1.cache_engine import LMCacheEngineBuilder

        LMCacheEngineBuilder.destroy(self._id)
        self._leave()

    def _leave(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self.server is not None:
            self.server.close()


class LMCachePrompt:
    """One prompt's grains in LMCache."""

    def __init__(self, store: LMCacheStore, keys: list[bytes], stored: list[bool]) -> None:
        self.store, self.keys, self.stored = store, keys, stored

    def read(self, grain: int) -> torch.Tensor:
        """Fetch one grain. StoreError: missing, unreadable or corrupt."""
        store, key = self.store, self.keys[grain]
        try:
            found = store.engine.storage_manager.get(store.key(key), store._where)
        except Exception as error:
            raise StoreError("unreadable", f"LMCache ({store.tier}): {type(error).__name__}: {error}") from error
        if found is None:
            raise StoreError("missing", f"LMCache ({store.tier}) has no grain {grain} of this prompt any more")
        kv = torch.empty(store.layout.shape, dtype=getattr(torch, store.layout.dtype))
        try:
            if (
                found.tensor is None
                or found.tensor.numel() != store._connector.get_shape(store.layout.tokens + 1).numel()
            ):
                raise StoreError("truncated", f"LMCache ({store.tier}) gave a grain of another size")
            sealed = store._connector.unseal(found, kv)
        finally:
            found.ref_count_down()
        if not sealed:
            raise StoreError("corrupt", f"LMCache ({store.tier}): grain {grain} is not what was stored")
        return kv

    def write(self, grain: int, kv: torch.Tensor) -> None:
        """Store one grain and wait until the tier has it. OSError when it does not take it in WRITE_S seconds."""
        store, layout, key = self.store, self.store.layout, self.keys[grain]
        if tuple(kv.shape) != layout.shape or str(kv.dtype) != f"torch.{layout.dtype}":
            raise ValueError(f"KV of {tuple(kv.shape)} {kv.dtype} does not fit the store's {layout}")
        made = store.key(key)
        with store._lock:
            if store.tier != "server" and store.has(key):  # else the old value stays; the server replaces
                store.engine.storage_manager.remove(made)
            tokens = layout.tokens + 1
            store.engine.store(hashes=[made.chunk_hash], offsets=[tokens], slot_mapping=[0] * tokens, kv=kv)
        deadline = time.monotonic() + WRITE_S
        while not store.has(key):
            if time.monotonic() > deadline:
                raise OSError(f"LMCache ({store.tier}) did not take a grain within {WRITE_S:.0f} s")
            time.sleep(0.002)
        self.stored[grain] = True


def _bytes(tensor: torch.Tensor) -> Any:
    """The bytes of a contiguous tensor, not a copy."""
    return tensor.view(torch.uint8).numpy().reshape(-1)


def _sum(kv: torch.Tensor) -> int:
    return xxhash.xxh3_64_intdigest(memoryview(_bytes(kv.detach().contiguous())))


_OPEN: dict[tuple[str, Layout, str, str], LMCacheStore] = {}
_GUARD = threading.Lock()


def open_lmcache(
    tier: str, layout: Layout, fingerprint: str, folder: Path, *, server: str = "", limit_mb: float | None = None
) -> LMCacheStore:
    """A store in tier "ram", "disk" or "server" ("host:port"; "": one is started and ended with the store).

    Stores of one process with the same tier, layout and fingerprint are one. BackendUnavailable without LMCache 0.5,
    ValueError for another tier.
    """
    found = version("lmcache")
    if not found.startswith(VERSION):
        have = f"this is {found}" if found else "it is not installed"
        raise BackendUnavailable(f"LMCache {VERSION}x is needed, {have}; pip install 'lmcache==0.5.6' or make setup")
    if tier not in TIERS:
        raise ValueError(f"LMCache has the tiers {', '.join(TIERS)}, not {tier!r}")
    folder.mkdir(parents=True, exist_ok=True)
    with _GUARD:
        key = tier, layout, fingerprint, server
        if key in _OPEN:
            _OPEN[key].users += 1
        else:
            _OPEN[key] = LMCacheStore(tier, layout, fingerprint, folder, server, limit_mb)
        return _OPEN[key]


@dataclass
class Server:
    """A running lmcache_server, which ends with this process in any case."""

    address: str
    process: subprocess.Popen[bytes]

    def close(self) -> None:
        """End it."""
        leash.end(self.process)


def start_server(folder: Path) -> Server:
    """Start lmcache_server on a free port of this machine, and wait until it answers. TimeoutError with its log."""
    port, path = free_port(), folder / "lmcache_server.log"
    with path.open("wb") as log:
        command = [sys.executable, "-m", "lmcache.v1.server", "127.0.0.1", str(port)]
        process = leash.start(command, log)
    await_port(process, port, path, "lmcache_server")
    return Server(f"127.0.0.1:{port}", process)


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def await_port(process: subprocess.Popen[bytes], port: int, log: Path, name: str) -> None:
    """Wait until a server answers; it is ended, and TimeoutError quotes its log, when it does not in START_S."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    leash.end(process)
    raise TimeoutError(f"{name} did not answer within {START_S:.0f} s: {log.read_text(errors='replace')[-500:]}")
