"""The container and what it holds: read back equal or refused, whatever happens to its bytes, disk or writers."""

import errno
import json
import multiprocessing
import random
import struct
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from workbench import aside
from workbench.foundry import archive, explore
from workbench.foundry.archive import Archive, Refused
from workbench.foundry.graph import decode, relocate

sys.path.insert(0, str(Path(__file__).parent))
from small import BASE, SIZE, small

MUTATIONS = 12_000


@pytest.fixture(scope="module")
def raw():
    return archive.encode(small().sections())


def test_what_is_written_is_read(tmp_path, raw):
    name = archive.write(tmp_path / "a.foundry", small().sections())
    read = archive.read(tmp_path / "a.foundry")
    assert decode(read) == small()
    assert read.id == name == Archive(raw).id
    assert [p.name for p in tmp_path.iterdir()] == ["a.foundry"]


def mutated(raw, draw):
    """One of: a flipped bit, a changed byte, a zeroed or copied run, a cut, an added tail, two swapped runs."""
    b = bytearray(raw)
    at, other = draw.randrange(len(b)), draw.randrange(len(b))
    n = draw.choice((1, 2, 4, 8, 64, 512))
    kind = draw.randrange(7)
    if kind == 0:
        b[at] ^= 1 << draw.randrange(8)
    elif kind == 1:
        b[at] = draw.randrange(256)
    elif kind == 2:
        b[at : at + n] = bytes(len(b[at : at + n]))
    elif kind == 3:
        b[at : at + n] = b[other : other + len(b[at : at + n])].ljust(len(b[at : at + n]), b"\xff")
    elif kind == 4:
        del b[at:]
    elif kind == 5:
        b += draw.randbytes(n)
    else:
        b[at : at + n], b[other : other + n] = b[other : other + n], b[at : at + n]
    return bytes(b)


def survivors(raw, read, count):
    """Mutations that `read` takes and that then say something else than the original; and how many were refused."""
    draw, right, wrong, refused = random.Random(1), small(), 0, 0
    for _ in range(count):
        try:
            wrong += read(mutated(raw, draw)) != right
        except Refused:
            refused += 1
    return wrong, refused


def test_no_mutation_is_believed(raw):
    wrong, refused = survivors(raw, lambda b: decode(Archive(b)), MUTATIONS)
    assert wrong == 0
    assert refused > 0.9 * MUTATIONS


def test_without_checksums_some_are(raw, monkeypatch):
    """Negative control: the same reader, with every digest taken for right, believes some of the same mutations."""

    class Any16(bytes):
        def __eq__(self, other):
            return True

        def __ne__(self, other):
            return False

        __hash__ = bytes.__hash__

    monkeypatch.setattr(archive, "digest", lambda _: Any16(16))
    wrong, _ = survivors(raw, lambda b: decode(Archive(b)), 1_000)
    assert wrong > 10


@pytest.mark.parametrize("keep", [0, 7, 63, 64, 200, -1])
def test_truncated(raw, keep):
    with pytest.raises(Refused) as caught:
        Archive(raw[:keep])
    assert caught.value.cause == "truncated"


def forged(**sections):
    """An archive with right checksums and other sections: what damage cannot make and a bad writer can."""
    return Archive(archive.encode(small().sections() | sections))


def manifest(**changed):
    return archive.canonical(archive.parse_json(small().sections()["manifest"], "") | changed)


GRAPH = {"size": 1, "template": "?", "probe": "", "outputs": []}
TENSOR = {"name": "embed", "role": "weight", "dtype": "float32", "shape": [16, 4], "offset": 0}


@pytest.mark.parametrize(
    "sections",
    [
        {"manifest": b"{"},
        {"manifest": b"[" * 200_000},
        {"manifest": b'{"format": 1, "format": 2}'},
        {"manifest": manifest(more=1)},
        {"manifest": manifest(format="pickle")},
        {"manifest": manifest(arena={"base": -4096, "size": SIZE})},
        {"manifest": manifest(arena={"base": BASE, "size": 2**60})},
        {"manifest": manifest(arena={"base": BASE, "size": 4096})},
        {"manifest": manifest(graphs=[])},
        {"manifest": manifest(graphs=[GRAPH])},
        {"manifest": manifest(binaries={})},
        {"manifest": manifest(tensors=[TENSOR | {"shape": [2**39, 2**39]}])},
        {"manifest": manifest(tensors=[TENSOR | {"offset": True}])},
        {"manifest": manifest(tensors=[TENSOR | {"dtype": "object"}])},
        {"manifest": manifest(weights=[])},
        {"slots/000001": bytes(64)},
        {"slots/000001": bytes(56)},
        {"extents/000001": struct.pack("<4Q", 2**63, 1, 1, 1)},
        {"extra": b"?"},
    ],
    ids=lambda s: str(s)[:60],
)
def test_a_proper_container_with_nonsense_in_it(sections):
    with pytest.raises(Refused) as caught:
        decode(forged(**sections))
    assert caught.value.cause in ("malformed", "corrupt")


def test_only_listed_functions_of_libraries():
    """An archive cannot name any function of a library it likes."""
    key = next(iter(small().templates))
    text = small().sections()[f"template/{key}"].replace(b"sgemm_", b"system")
    with pytest.raises(Refused, match="system"):
        decode(forged(**{f"template/{key}": text}))


def test_edges_are_in_the_key():
    (template,) = small().templates.values()
    assert replace(template, edges=((0, 1), (1, 2))).key != template.key
    assert replace(template, nodes=tuple(replace(n, label="x") for n in template.nodes)).key == template.key


def test_relocation_moves_addresses_and_nothing_else():
    (template,) = small().templates.values()
    slots = small().graphs[2].slots
    moved = struct.unpack("<8Q", relocate(slots, template, 4096))
    assert [b - a for a, b in zip(struct.unpack("<8Q", slots), moved)] == [4096, 0, 4096, 4096, 0, 4096, 0, 0]
    assert relocate(relocate(slots, template, -8192), template, 8192) == slots


def test_version(raw):
    changed = bytearray(raw)
    changed[8] = 9
    changed[48:64] = archive.digest(bytes(changed[:48]))
    with pytest.raises(Refused) as caught:
        Archive(bytes(changed))
    assert caught.value.cause == "version"


def test_missing_and_unreadable(tmp_path):
    for path, cause in ((tmp_path / "none", "missing"), (tmp_path, "unreadable")):
        with pytest.raises(Refused) as caught:
            archive.read(path)
        assert caught.value.cause == cause


def _write_often(path, mark, stop):
    sections = small(model={"name": "small", "writer": mark, "long": "x" * 20_000 * mark}).sections()
    while not stop.is_set():
        archive.write(path, sections)


def test_two_writers(tmp_path):
    """Whoever reads meanwhile sees one writer's archive, whole."""
    path, context = tmp_path / "both.foundry", multiprocessing.get_context("fork")
    archive.write(path, small().sections())
    stop = context.Event()
    writers = [context.Process(target=_write_often, args=(path, mark, stop)) for mark in (1, 2)]
    for each in writers:
        each.start()
    seen = set()
    try:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            seen.add(decode(archive.read(path)).model.get("writer"))
            if seen >= {1, 2}:
                break
    finally:
        stop.set()
        for each in writers:
            each.join(20)
            each.kill()
    assert seen >= {1, 2}
    assert [p.name for p in tmp_path.iterdir()] == ["both.foundry"]


def test_disk_full(tmp_path, monkeypatch):
    path = tmp_path / "a.foundry"
    archive.write(path, small().sections())
    before, real = path.read_bytes(), open

    def full(name, mode="r", **more):
        if "x" in mode:
            real(name, mode).close()
            return real("/dev/full", "wb", **more)
        return real(name, mode, **more)

    monkeypatch.setattr(aside, "open", full, raising=False)
    with pytest.raises(OSError, match="free some space") as caught:
        archive.write(path, small(model={"name": "other"}).sections())
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.foundry"]


def test_diff_and_between_sizes(tmp_path):
    a, b = tmp_path / "a.foundry", tmp_path / "b.foundry"
    archive.write(a, small().sections())
    archive.write(b, small(fingerprint={"machine": "aarch64", "cpu_features": ["avx2"]}, base=BASE).sections())
    assert explore.diff(a, a) == {}
    assert explore.diff(a, b) == {"fingerprint": {"machine": {"first": "x86_64", "second": "aarch64"}}}
    changed = explore.between_sizes(a, 1, 2)
    assert [(row["node"], row["position"], row["value"], row["other"]) for row in changed] == [
        (0, 1, 1, 2),
        (1, 2, 64, 128),
    ]
    about = explore.inspect(a)
    assert about["templates"][0]["sizes"] == [1, 2]
    assert about["templates"][0]["depth"] == 2
    assert [r["of"] for r in explore.parameters(a, 1) if r["address"]] == ["embed", "scratch", "embed", "ids"]


def test_verify_says_why(tmp_path, raw):
    path = tmp_path / "a.foundry"
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert explore.verify(path)["cause"] == "corrupt"
    path.write_bytes(raw)
    said = explore.verify(path)
    assert said["cause"] == "foreign"
    assert said["checked"] == ["checksums", "structure"]
    assert "processor features differ" in said["why"]


def test_commands(tmp_path, raw):
    from typer.testing import CliRunner

    from workbench.foundry.cli import app

    path = tmp_path / "a.foundry"
    path.write_bytes(raw)
    call = CliRunner().invoke
    assert json.loads(call(app, ["inspect", str(path)]).stdout)["id"] == Archive(raw).id
    assert len(json.loads(call(app, ["inspect", str(path), "--parameters", "2"]).stdout)) == 8
    assert json.loads(call(app, ["diff", str(path), str(path)]).stdout) == {}
    refused = call(app, ["verify", str(path), "--no-replay"])
    assert (refused.exit_code, json.loads(refused.stdout[: refused.stdout.rindex("}") + 1])["cause"]) == (1, "foreign")
    path.write_bytes(raw[:100])
    assert call(app, ["inspect", str(path)]).exit_code == 1
