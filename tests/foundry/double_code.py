"""Binaries and kernels of the driver double: ELF files whose kernels are functions here."""

import json
import struct
from dataclasses import replace

from workbench.foundry.cuda_binaries import elf_kernels

HEAD = struct.Struct("<6s58xQ")  # an ELF header's first bytes, room for the rest, length of what says it all


def image(kernels, salt=""):
    """A binary. kernels: symbol -> (code, layout); `code` names a function of KERNELS."""
    said = {s: {"code": code, "layout": layout} for s, (code, layout) in kernels.items()}
    body = json.dumps({"kernels": said, "salt": salt}, sort_keys=True).encode()
    names, sections = b"\0", []
    for name in [".shstrtab", ".nv.info", *(f".text.{symbol}" for symbol in kernels)]:
        sections.append(struct.pack("<I", len(names)))
        names += name.encode() + b"\0"
    at = HEAD.size + len(body)
    table = at + len(names)
    sections[0] = sections[0] + bytes(20) + struct.pack("<QQ", at, len(names))
    raw = bytearray(HEAD.pack(b"\x7fELF\2\1", len(body)) + body + names)
    raw += b"".join(each.ljust(64, b"\0") for each in sections)
    struct.pack_into("<Q", raw, 40, table)
    struct.pack_into("<HHH", raw, 58, 64, len(sections), 0)
    return bytes(raw)


def parsed(raw):
    """What an image says of its kernels; None when it is no image."""
    try:
        magic, size = HEAD.unpack_from(raw)
        said = json.loads(raw[HEAD.size : HEAD.size + size])["kernels"]
        return said if magic == b"\x7fELF\2\1" and elf_kernels(raw) == set(said) else None
    except (ValueError, KeyError, struct.error):
        return None


def floats(raw):
    return struct.unpack(f"<{len(raw) // 4}f", raw)


def to_bytes(values):
    return struct.pack(f"<{len(values)}f", *values)


def axpy(m, k):
    """dst[i] += a x[i]; (dst, x, a, n)."""
    dst, x, a, n = struct.unpack("<QQfi", b"".join(k.values))
    old, add = floats(m.get(dst, 4 * n)), floats(m.get(x, 4 * n))
    m.put(dst, to_bytes([u + a * v for u, v in zip(old, add)]))


def axmy(m, k):
    """As axpy, but subtracted."""
    a = struct.pack("<f", -struct.unpack("<f", k.values[2])[0])
    axpy(m, replace(k, values=(*k.values[:2], a, k.values[3])))


def axpy_of_four(m, k):
    """As axpy; of the last parameter, a struct of a number and room that is never set, nothing is used."""
    axpy(m, replace(k, values=k.values[:4]))


def gather(m, k):
    """out[i] = table[ids[i]], rows of `width` floats; (out, table, ids, width, n)."""
    out, table, ids, width, n = struct.unpack("<QQQii", b"".join(k.values))
    for i, row in enumerate(struct.unpack(f"<{n}q", m.get(ids, 8 * n))):
        m.put(out + 4 * width * i, m.get(table + 4 * width * row, 4 * width))


def product(m, k):
    """out = x w for rows of `width`; one struct (w, pad, x, width, n) and a pointer. Blocks sum in the other order."""
    w, _, x, width, n = struct.unpack("<QQQii", k.values[0])
    (out,) = struct.unpack("<Q", k.values[1])
    weights = floats(m.get(w, 4 * width * width))
    turn = 1 if k.block[0] == 32 else -1
    for i in range(n):
        row = floats(m.get(x + 4 * width * i, 4 * width))
        sums = [0.0] * width
        for j in range(width)[::turn]:
            for o in range(width):
                (sums[o],) = struct.unpack("<f", struct.pack("<f", sums[o] + row[j] * weights[j * width + o]))
        m.put(out + 4 * width * i, to_bytes(sums))


def of_rank(m, k):
    """x[i] += rank + the low byte of the communicator / 256; (x, n, rank, comm)."""
    x, n, rank, comm = struct.unpack("<QiiQ", b"".join(k.values))
    m.put(x, to_bytes([v + rank + (comm & 255) / 256 for v in floats(m.get(x, 4 * n))]))


KERNELS = {f.__name__: f for f in (axmy, axpy, axpy_of_four, gather, product, of_rank)}
