"""What CAKE on vLLM can be asked: an engine by `kv_connector_extra_config`, a request by `kv_transfer_params`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import xxhash

from workbench.cake.costs import Costs
from workbench.cake.policy import Batch, Mode, Policy
from workbench.cake.store import DiskStore, Eviction, Layout, Store

StoreName = Literal["disk", "lmcache-ram", "lmcache-disk", "lmcache-server"]
GRAIN = 128
STEP = 512  # as in the paper: a longer pass is cheaper a token and wastes more where the sides meet
SAMPLES, SAMPLE_BYTES = 16, 1 << 16  # of each weight file, for the model's fingerprint


@dataclass(frozen=True)
class Settings:
    """An engine's settings. link_mb_s None or 0: no throttle. step None: 512, or the engine's token budget if less.

    costs: step_s, token_s, pair_s of costs.Costs where they are known beforehand; otherwise they are learnt.
    """

    folder: str
    store: StoreName = "disk"
    server: str = ""  # of store "lmcache-server": "host:port"
    link_mb_s: float | None = None
    limit_mb: float | None = None
    eviction: Eviction = "head-last"
    cold: bool = False  # drop a file from the page cache before it is read
    sync: bool = False  # write a file through to the disk before it counts
    grain: int | None = None
    step: int | None = None
    run: int = 1
    mode: Mode = "cake"
    batch: Batch = "mean"
    hedge: bool = True
    save: bool = True
    stall_s: float = 30.0  # a load that moves nothing for so long is given up: the rest is computed
    shared: str = ""  # folder of the shared claim ledgers; "": /dev/shm
    costs: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, given: dict[str, Any]) -> Settings:
        """From `kv_connector_extra_config`. ValueError names the setting that is wrong and what it may be."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(given) - known):
            raise ValueError(f"CAKE has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        if not given.get("folder"):
            raise ValueError('CAKE needs a folder for the KV store: kv_connector_extra_config={"folder": ...}')
        made = cls(**given)
        _one_of("store", made.store, get_args(StoreName))
        _one_of("mode", made.mode, get_args(Mode))
        _one_of("batch", made.batch, get_args(Batch))
        _one_of("eviction", made.eviction, get_args(Eviction))
        if made.store == "lmcache-server" and ":" not in made.server:
            raise ValueError('CAKE: store "lmcache-server" needs its address: "server": "host:port"')
        for name in ("link_mb_s", "limit_mb", "stall_s"):
            if (getattr(made, name) or 0.0) < 0:
                raise ValueError(f"CAKE: {name} must not be negative")
        made.known_costs()
        return made

    def known_costs(self) -> Costs | None:
        """The costs that were given; what loading costs is measured in any case."""
        try:
            return Costs(**{"load_token_s": 1.0, **self.costs}) if self.costs else None
        except TypeError as error:
            raise ValueError(f"CAKE: costs: {error}") from None

    def grain_for(self, block_size: int) -> int:
        """Tokens of a grain, a whole number of blocks. ValueError when the one that was asked for is not."""
        grain = self.grain or -(-GRAIN // block_size) * block_size
        if grain % block_size:
            raise ValueError(f"CAKE: grain {grain} is not a multiple of the engine's block size {block_size}")
        return grain

    def policy(self, costs: Costs, budget: int, grain: int) -> Policy:
        """The policy of an engine that computes at most `budget` tokens a step."""
        step = min(self.step or max(STEP, grain), budget)
        if step < grain:
            raise ValueError(
                f"CAKE: a step of {step} tokens cannot hold a grain of {grain}: raise max_num_batched_tokens or step"
            )
        return Policy(costs, step, self.run, self.mode, self.batch, self.hedge)

    def open_store(self, layout: Layout, fingerprint: str, *, cold: bool | None = None) -> Store:
        """The store that `store` names."""
        if self.store == "disk":
            cold = self.cold if cold is None else cold
            return DiskStore(
                self.folder,
                layout,
                fingerprint,
                limit_mb=self.limit_mb,
                eviction=self.eviction,
                cold=cold,
                sync=self.sync,
            )
        from workbench.cake.lmcache import open_lmcache

        tier = self.store.removeprefix("lmcache-")
        return open_lmcache(tier, layout, fingerprint, Path(self.folder), server=self.server, limit_mb=self.limit_mb)


@dataclass(frozen=True)
class Asked:
    """What one request asks for, by SamplingParams(extra_args={"kv_transfer_params": {...}}) or in its HTTP body.

    cake: the mode. link_mb_s, run, cold: instead of the engine's. latency_ms: added before each read. trace: return
    the spans of passes and loads. cut: end a pass where the loadable part ends, so that the last pass is the same one
    in every mode, to the bit.
    """

    cake: Mode
    link_mb_s: float
    run: int
    latency_ms: float
    cold: bool
    trace: bool
    cut: bool

    @classmethod
    def of(cls, given: dict[str, Any] | None, settings: Settings) -> Asked:
        """Keys of other connectors are left alone; ValueError for a wrong value of ours."""
        given = given or {}
        mode = given.get("cake", settings.mode)
        _one_of("cake", mode, get_args(Mode))
        link = given.get("link_mb_s", settings.link_mb_s)
        flags = given.get("cold", settings.cold), given.get("trace", False), given.get("cut", False)
        run, latency_ms = int(given.get("run", settings.run)), float(given.get("latency_ms", 0.0))
        if run < 1 or latency_ms < 0 or float(link or 0.0) < 0:
            raise ValueError("run must be at least 1, latency_ms and link_mb_s not negative")
        return cls(mode, float(link or 0.0), run, latency_ms, *(bool(f) for f in flags))


def model_fingerprint(model: str, config: dict[str, Any], *tags: object) -> str:
    """What decides KV: the weights (sampled bytes of a local folder's files, else the name), the config, `tags`."""
    digest = xxhash.xxh3_128(json.dumps(config, sort_keys=True, default=str).encode())
    folder = Path(model)
    weights = sorted(p for kind in ("*.safetensors", "*.bin", "*.gguf") for p in folder.glob(kind))
    if not weights:
        digest.update(model.encode())
    for path in weights:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with open(path, "rb") as file:
            for i in range(SAMPLES):
                file.seek(max(0, size - SAMPLE_BYTES) * i // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    digest.update(repr(tags).encode())
    return digest.hexdigest()


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"CAKE: {name} must be one of {', '.join(allowed)}, not {value!r}")
