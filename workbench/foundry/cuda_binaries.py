"""Which binary a kernel comes from: the bytes that a later process loads instead of importing the library.

Images are seen while they are loaded: Triton tells the handle with the cubin, CUPTI only shows the image
(kernels/cupti). A kernel of a known handle has its image. Another is looked for by its symbol among all images seen; a
candidate must agree in parameter layout, registers and the other traits that the driver tells. If two of them do
and differ, nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from workbench.foundry.archive import digest
from workbench.foundry.cuda_graph import Code
from workbench.foundry.driver import Driver, DriverError, Handle, Unsupported


@dataclass(frozen=True)
class Image:
    """A kernel binary that was loaded. `handle`: the function or module that it is known to have become, or 0."""

    raw: bytes
    handle: Handle = 0
    source: str = "cupti"


def identify(
    driver: Driver, functions: Mapping[Handle, Sequence[tuple[int, int]]], images: Iterable[Image]
) -> tuple[dict[Handle, Code], dict[str, bytes]]:
    """Which code each function is, and the binaries by digest.

    Unsupported names a kernel whose binary was not seen, or that two different binaries could be.
    """
    seen = list(images)
    by_handle = {i.handle: i.raw for i in seen if i.handle}
    distinct = {digest(i.raw).hex(): i.raw for i in seen}
    symbols = {key: driver.symbols(raw) for key, raw in distinct.items()}
    found, used, libraries = {}, {}, _Libraries(driver, distinct)
    try:
        for handle, layout in functions.items():
            name = driver.name(handle)
            exact = by_handle.get(handle) or by_handle.get(driver.module(handle))
            if exact is not None:
                key = digest(exact).hex()
            else:
                fits = [k for k in distinct if name in symbols[k] and libraries.same(k, name, handle, tuple(layout))]
                if len(fits) != 1:
                    raise Unsupported(_no_one(name, fits, sum(name in each for each in symbols.values())))
                (key,) = fits
            found[handle] = Code(key, name, tuple(layout), tuple(sorted(driver.settings(handle).items())))
            used[key] = distinct[key]
    finally:
        libraries.close()
    return found, used


def _no_one(name: str, fits: Sequence[str], named: int) -> str:
    if fits:
        return (
            f"kernel {name}: {len(fits)} different binaries have it and agree in all that the driver tells; load one "
            "of them only, or through Triton, which tells which is which"
        )
    if named:
        return (
            f"kernel {name}: {named} binaries have the name, none with the parameters and registers of the one captured"
        )
    return f"kernel {name}: no binary with it was seen; begin to collect before its library loads it (first use counts)"


class _Libraries:
    """Images loaded once each, to be compared, and unloaded at the end."""

    def __init__(self, driver: Driver, images: Mapping[str, bytes]) -> None:
        self._driver, self._images = driver, images
        self._loaded: dict[str, Handle] = {}

    def same(self, key: str, name: str, handle: Handle, layout: tuple[tuple[int, int], ...]) -> bool:
        """Whether an image's kernel of that name looks as the captured one does."""
        if key not in self._loaded:
            self._loaded[key] = self._driver.load(self._images[key])
        try:
            own = self._driver.function(self._loaded[key], name)
        except DriverError:
            return False
        return self._driver.layout(own) == layout and self._driver.traits(own) == self._driver.traits(handle)

    def close(self) -> None:
        for each in self._loaded.values():
            self._driver.unload(each)


def elf_kernels(raw: bytes) -> set[str]:
    """Kernels of a cubin: the names behind .text. among its sections. ValueError when it is no 64-bit ELF file."""
    if raw[:6] != b"\x7fELF\x02\x01" or len(raw) < 64:
        raise ValueError("no 64-bit little-endian ELF file")
    number = int.from_bytes
    table, entry, count, names = (
        number(raw[at : at + n], "little") for at, n in ((40, 8), (58, 2), (60, 2), (62, 2))
    )  # fmt: skip
    if entry < 64 or table + entry > len(raw):
        raise ValueError("section headers lie outside the file")
    count = count or number(raw[table + 32 : table + 40], "little")  # more sections than the header has room for
    names = number(raw[table + 40 : table + 44], "little") if names == 0xFFFF else names
    if table + entry * count > len(raw) or names >= count:
        raise ValueError("section headers lie outside the file")
    headers = [raw[table + i * entry : table + (i + 1) * entry] for i in range(count)]
    start, size = (number(headers[names][at : at + 8], "little") for at in (24, 32))
    texts = raw[start : start + size]
    found = set()
    for each in headers:
        at = number(each[:4], "little")
        name = texts[at : texts.find(b"\0", at)].decode("ascii", "replace")
        if name.startswith(".text."):
            found.add(name.removeprefix(".text."))
    return found
