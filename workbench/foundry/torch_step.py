"""The decode step as torch's own ways run it, over the weights file of an archive: for rivals.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config
import torch._inductor.config
from torch import Tensor, nn

from workbench.foundry import probe
from workbench.foundry.graph import Capture
from workbench.foundry.shape import Shape
from workbench.foundry.step import compiled_step, decode_step, mark_batch

MEGA = "mega.bin"
MB = 1e6


class Step(nn.Module):
    """decode_step with the weights as buffers, as torch.export wants it."""

    def __init__(self, shape: Shape, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.shape = shape
        self.names = {name: f"w_{name.replace('.', '_')}" for name in weights}
        for name, value in weights.items():
            self.register_buffer(self.names[name], value)

    def forward(self, ids: Tensor, positions: Tensor, k: list[Tensor], v: list[Tensor]) -> tuple[Tensor, Tensor]:
        """As decode_step."""
        w = {name: getattr(self, own) for name, own in self.names.items()}
        return decode_step(self.shape, w, ids, positions, k, v)


class TorchStep:
    """Weights by memory map, KV and inputs in torch's memory, and the step in every way."""

    def __init__(self, capture: Capture, folder: Path) -> None:
        self.capture, self.shape = capture, Shape.from_dict(capture.model)
        self.dynamic = bool(capture.model.get("dynamic", True))
        nbytes = capture.weights["bytes"]
        self._weights = torch.from_file(str(folder / capture.weights["file"]), False, nbytes, dtype=torch.uint8)
        self.state = torch.zeros(capture.size - nbytes, dtype=torch.uint8)  # KV and inputs at their arena offsets
        self.seen = {t.name: self._torch(t.offset, t.nbytes, t.dtype, t.shape) for t in capture.tensors}
        self.w = {name: self.seen[name] for name, _ in self.shape.weights()}
        self.out: dict[int, tuple[Tensor, ...]] = {}

    def _torch(self, offset: int, nbytes: int, dtype: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor of its own over those bytes: torch.compile takes no view of another type that is written to."""
        start = len(self._weights)
        base, at = (self._weights, offset) if offset < start else (self.state, offset - start)
        raw: Any = base.numpy()
        return torch.frombuffer(memoryview(raw)[at : at + nbytes], dtype=getattr(torch, dtype)).view(shape)

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Bytes of KV or inputs, by their offset in the arena."""
        start = len(self._weights)
        state: Any = self.state.numpy()
        return memoryview(state)[offset - start : offset - start + nbytes]

    def arguments(self, size: int) -> tuple[Any, ...]:
        """ids, positions, k, v of the first `size` sequences."""
        k, v = ([self.seen[f"{i}.{which}"][:size] for i in range(self.shape.layers)] for which in "kv")
        return self.seen["ids"][:size], self.seen["positions"][:size], k, v

    def outcome(self, size: int) -> str:
        """As probe.outcome."""
        arrays: list[Any] = [t.detach().contiguous().numpy() for t in self.out[size]]
        left = [memoryview(each).cast("B") for each in arrays]
        return probe.outcome(self.view, self.capture.tensors, left, size)

    def way(self, way: str, place: Path) -> tuple[Callable[[int], Callable[[], Any]], float]:
        """What puts the probe's inputs of a size down and returns the call; and the MB that this way loads."""
        if way == "aoti":
            packages = {name: place / f"{name}.pt2" for name in self._groups(sorted(self.capture.graphs))}
            loaded = {name: self._load(path) for name, path in packages.items()}
            disk = sum(path.stat().st_size for path in packages.values()) / MB
            return self._inputs(lambda size: loaded[self._group(size)]), disk
        if way == "mega":
            torch.compiler.load_cache_artifacts((place / MEGA).read_bytes())
        call = self.call if way == "eager" else self.compiled()
        sizes = {"mega": (place / MEGA,), "warm": (place / "cache").rglob("*")}.get(way, ())
        return self._inputs(lambda _: call), sum(p.stat().st_size for p in sizes if p.is_file()) / MB

    def call(self, ids: Tensor, positions: Tensor, k: list[Tensor], v: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The step, eager."""
        return decode_step(self.shape, self.w, ids, positions, k, v)

    def compiled(self) -> Callable[..., Any]:
        """torch.compile of the step, for the same sizes as the capture: batch 1 and a dynamic one, or one a size."""
        whole = compiled_step(self.shape, dynamic=self.dynamic)

        def run(ids: Tensor, positions: Tensor, k: list[Tensor], v: list[Tensor]) -> Any:
            if self.dynamic and len(ids) > 1 and not hasattr(ids, "_dynamo_dynamic_indices"):
                mark_batch(self.shape, ids, positions, k, v)
            return whole(self.w, ids, positions, k, v)

        return run

    def _inputs(self, call_for: Callable[[int], Callable[..., Any]]) -> Callable[[int], Callable[[], Any]]:
        def inputs(size: int) -> Callable[[], Any]:
            at = probe.ids_and_positions(size, self.shape.vocab, self.shape.capacity)
            probe.fill(self.view, self.capture.tensors, size, *at)
            arguments, call = self.arguments(size), call_for(size)

            def run() -> None:
                with torch.inference_mode():
                    self.out[size] = call(*arguments)

            return run

        return inputs

    def make(self, what: str, place: Path, sizes: list[int]) -> None:
        """What another process loads: "warm" fills the cache folder and writes the mega-cache, "aoti" the packages."""
        if what == "aoti":
            for name, size in self._groups(sizes).items():
                self._package(place / f"{name}.pt2", size)
            return
        call = self.compiled()
        inputs = self._inputs(lambda _: call)
        for size in sizes:
            inputs(size)()
        keep_artifacts(place)

    def _group(self, size: int) -> str:
        return "batch" if self.dynamic and size > 1 else f"batch{size}"

    def _groups(self, sizes: list[int]) -> dict[str, int]:
        return {self._group(size): size for size in sizes}

    def _package(self, path: Path, size: int) -> None:
        """Export and compile; weights stay outside of the package."""
        arguments = tuple(self._own(a) for a in self.arguments(size))
        shapes = None
        if self.dynamic and size > 1 and self.shape.slots > 2:  # of one size there is nothing dynamic
            batch = torch.export.Dim("batch", min=2, max=self.shape.slots)
            n = self.shape.layers
            shapes = ({0: batch}, {0: batch}, [{0: batch}] * n, [{0: batch}] * n)
        with torch.inference_mode(False), torch.no_grad():
            program = torch.export.export(Step(self.shape, self.w), arguments, dynamic_shapes=shapes)
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs={"aot_inductor.package_constants_in_so": False}
            )

    def _own(self, value: Any) -> Any:
        return [v.clone() for v in value] if isinstance(value, list) else value.clone()

    def _load(self, path: Path) -> Callable[..., Any]:
        package = torch._inductor.aoti_load_package(str(path))
        constants = {f"w_{name.replace('.', '_')}": value for name, value in self.w.items()}
        wanted = set(package.get_constant_fqns())
        package.load_constants(
            {k: v for k, v in constants.items() if k in wanted}, check_full_update=True, user_managed=True
        )
        return package


def keep_artifacts(place: Path) -> None:
    """Write what this process compiled as one file: what "mega" loads."""
    kept = torch.compiler.save_cache_artifacts()
    if kept is None:
        raise RuntimeError("torch kept no cache artifacts")
    place.mkdir(parents=True, exist_ok=True)
    (place / MEGA).write_bytes(kept[0])
