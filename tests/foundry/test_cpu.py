"""A real decode step compiled by Inductor, captured, rebuilt in fresh processes; and what must be refused."""

import json
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.foundry import archive, explore, rivals
from workbench.foundry.archive import Refused
from workbench.foundry.fingerprint import differences, machine
from workbench.foundry.graph import decode
from workbench.foundry.load import load, load_or_capture

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


def run(script, *args, **environment):
    call = [sys.executable, HERE / script, *map(str, args)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=280, env=os.environ | environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """The archive of a tiny step, batch 2, 3 and 8, and what torch.compile said; one real compilation."""
    folder = tmp_path_factory.mktemp("captured")
    run("capture_small.py", folder, TORCHINDUCTOR_CACHE_DIR=str(folder / "cache"), OMP_NUM_THREADS="1")
    return folder / "tiny.foundry", json.loads((folder / "seen.json").read_text())


@pytest.fixture
def copied(captured, tmp_path):
    """A copy of the archive, with its weights, to do things to."""
    path = tmp_path / "tiny.foundry"
    path.write_bytes(captured[0].read_bytes())
    for each in captured[0].parent.glob("*.weights"):
        (tmp_path / each.name).write_bytes(each.read_bytes())
    return path


def rewritten(path, change):
    """The archive with its content changed and every checksum right again: what a forger or a bug would leave."""
    archive.write(path, change(decode(archive.read(path))).sections())


def cause(path, **options):
    with pytest.raises(Refused) as caught:
        load(path, **options)
    return caught.value.cause


def test_a_fresh_process_leaves_the_bits_of_torch_compile(captured):
    path, seen = captured
    answer = json.loads(run("rebuild_small.py", path))
    assert answer["said"] == seen["said"]
    assert answer["heavy"] == []
    assert answer["phases"] == ["archive", "weights", "graphs", "verify"]
    assert not answer["relocated"]
    assert len({tuple(map(str, s)) for each in seen["said"].values() for s in each}) == 9  # nothing is a constant


def test_elsewhere_too_when_the_place_is_taken(captured):
    path, seen = captured
    answer = json.loads(run("rebuild_small.py", path, "taken"))
    assert answer["relocated"]
    assert answer["said"] == seen["said"]


def test_one_template_serves_all_sizes(captured):
    about = explore.inspect(captured[0])
    (template,) = about["templates"]
    assert template["sizes"] == [2, 3, 8]
    assert template["kinds"]["gemm"] == 7  # qkv, 2 of attention, out, gate and up, down, logits
    assert template["edges"] >= template["nodes"] - 2
    assert captured[1]["drift"] < 1e-4  # beside the eager step
    labels = {row["label"] for row in explore.between_sizes(captured[0], 2, 3)}
    assert labels >= {"mm [128, 64]", "bmm [32, 16]"}


def test_the_step_is_the_models(captured):
    """Negative control of every equality here: what is captured is the model's decode step, not just any."""
    path, _ = captured
    runner = load(path)
    ids, positions = [5, 6, 7], [0, 0, 0]
    first = bytes(runner.step(ids, positions)[0])
    assert bytes(runner.step(ids, positions)[0]) == first
    assert bytes(runner.step([5, 6, 8], positions)[0])[: 512 * 8] == first[: 512 * 8]
    assert bytes(runner.step([5, 6, 8], positions)[0]) != first
    weight = runner.view("0.down")
    weight[3] ^= 0x40
    assert bytes(runner.step(ids, positions)[0]) != first


def word(capture, label, position, value):
    """Change one parameter of the graph of batch 3."""
    template = capture.templates[capture.graphs[3].template]
    slot = 0
    for node in template.nodes:
        if node.label.startswith(label):
            break
        slot += node.slots
    words = list(struct.unpack(f"<{template.slots}Q", capture.graphs[3].slots))
    words[slot + position] = value(words[slot + position])
    changed = replace(capture.graphs[3], slots=struct.pack(f"<{len(words)}Q", *words))
    return replace(capture, graphs={**capture.graphs, 3: changed})


@pytest.mark.parametrize(
    ("label", "position", "value", "expected"),
    [
        ("mm", 11, lambda w: w + 64, "mismatch"),  # a product that goes elsewhere
        ("mm", 6, lambda w: w + 64, "mismatch"),  # another place among the weights
        ("mm", 5, lambda _: 0x40000000, "mismatch"),  # twice as much
        ("cpp_fused", 6, lambda _: 2, "mismatch"),  # one row less
        ("mm", 3, lambda w: w + 1, "malformed"),  # more rows than there are
        ("mm", 11, lambda _: 0x600000000000, "malformed"),  # into the weights
        ("mm", 11, lambda w: w + 2**40, "malformed"),  # out of the arena
    ],
)
def test_a_changed_parameter_is_refused(copied, label, position, value, expected):
    rewritten(copied, lambda c: word(c, label, position, value))
    assert cause(copied, verify="all") == expected


def test_a_graph_is_verified_before_its_first_step(copied):
    """Batch 2 is verified at load and stands for its template; batch 3 is not believed for that."""
    rewritten(copied, lambda c: word(c, "mm", 5, lambda _: 0x40000000))
    runner = load(copied)
    assert runner.verified == {2}
    runner.step([1, 2], [0, 0])
    runner.view("0.k")[:4] = b"kept"
    with pytest.raises(Refused, match="batch 3 does not leave the bits"):
        runner.step([1, 2, 3], [0, 0, 0])
    assert bytes(runner.view("0.k")[:4]) == b"kept"


def test_flipped_weights_are_refused(copied):
    (weights,) = copied.parent.glob("*.weights")
    raw = bytearray(weights.read_bytes())
    raw[1000] ^= 1
    weights.write_bytes(raw)
    assert cause(copied) == "weights"
    weights.write_bytes(raw[:-1])
    assert cause(copied) == "truncated"
    weights.unlink()
    assert cause(copied) == "weights"


def test_another_machine_is_refused_in_words(captured):
    here = machine()
    assert differences(decode(archive.read(captured[0])).fingerprint, here) == []
    for name, other in {"torch": "2.12.0", "torch_cpu_build": "00", "cpu_vendor": "Other", "page_bytes": 16384}.items():
        with pytest.raises(Refused, match=name) as caught:
            load(captured[0], here=here | {name: other})
        assert caught.value.cause == "foreign"
    first, *others = here["cpu_features"]
    with pytest.raises(Refused, match=f"missing here {first};"):
        load(captured[0], here=here | {"cpu_features": others})


def test_another_archive_than_expected_is_refused(captured):
    right = archive.read(captured[0]).id
    assert load(captured[0], expect=right).verified == {2}
    with pytest.raises(Refused, match="not the archive that was asked for"):
        load(captured[0], expect="00" * 16)


def test_refused_means_capture(captured, copied):
    """The fallback: told why, and the new archive is used."""
    good = copied.read_bytes()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 1
    copied.write_bytes(bad)
    runner, why = load_or_capture(copied, lambda: copied.write_bytes(good))
    assert why.startswith("corrupt: ")
    assert len(runner.step([1, 2], [0, 1])[1]) == 2
    assert load_or_capture(copied, lambda: pytest.fail("not wanted"))[1] == ""


def test_bad_input_to_a_step(captured):
    runner = load(captured[0])
    for ids, positions, why in (
        ([512, 0], [0, 0], "0 to 511"),
        ([1, -1], [0, 0], "0 to 511"),
        ([1, 2], [0], "as many positions"),
        ([1, 2], [0, 32], "captured capacity"),
        ([1] * 4, [0] * 4, "no graph of batch 4"),
        ([], [], "no graph of batch 0"),
    ):
        with pytest.raises(ValueError, match=why):
            runner.step(ids, positions)


def test_verify_replays_every_size(captured):
    said = explore.verify(captured[0])
    assert (said["usable"], said["verified_sizes"]) == (True, [2, 3, 8])


def test_ways_are_measured_in_processes_of_their_own(captured):
    """The harness, with the ways that compile nothing."""
    found = rivals.compare(captured[0], ways=("foundry", "eager"), timeout_s=200)
    numbers = rivals.summary(found, decode(archive.read(captured[0])))
    assert numbers["exact"] == 1.0
    assert (numbers["graphs"], numbers["templates"]) == (3, 1)
    (ours,), (eager,) = found["foundry"], found["eager"]
    for each in (ours, eager):
        assert 0 < each.import_s < each.load_s < each.ready_s
        assert each.step_us.keys() == {2, 3, 8}
    assert set(ours.phases) == {"archive", "weights", "graphs", "verify"}
    assert ours.peak_mb < eager.peak_mb
    with pytest.raises(ValueError, match="no way is called slow"):
        rivals.compare(captured[0], ways=("slow",))
