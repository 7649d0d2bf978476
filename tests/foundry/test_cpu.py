"""A real decode step compiled by Inductor, captured, rebuilt in fresh processes; and what must be refused.

One run of the system makes the archive that all of these look at: capturing takes torch, and torch takes its time.
"""

import queue
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from workbench import runner
from workbench.foundry import SYSTEM, archive, explore, procs, rivals
from workbench.foundry.archive import Refused
from workbench.foundry.damage import WORDS, damage
from workbench.foundry.ear import Ear
from workbench.foundry.fingerprint import differences, machine
from workbench.foundry.graph import decode
from workbench.foundry.load import load, load_or_capture
from workbench.foundry.measure import OFFERS
from workbench.pump import Stopped
from workbench.system import Act, Note, Offer, Point, Progress, Span

pytestmark = pytest.mark.slow
WAIT_S = 280


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run of the tiny preset beside cold and eager, a copy damaged, the archive kept; in it one takes the place."""
    kept = tmp_path_factory.mktemp("kept")
    config = SYSTEM.make("tiny", keep=str(kept), damage="bit", compare="cold", reuse=False)
    run = runner.Run(SYSTEM, config, record=False).start()
    limit = time.monotonic() + WAIT_S
    while not run.offers and run.state == "running":
        assert time.monotonic() < limit, "it offers nothing"
        time.sleep(0.01)
    run.act("place")
    run.wait(WAIT_S)
    assert run.error is None, run.error
    return run


@pytest.fixture(scope="module")
def captured(done):
    """The archive of batch 2, 3 and 8."""
    return Path(done.config.keep) / "tiny.foundry"


@pytest.fixture
def copied(captured, tmp_path):
    """A copy of the archive, with its weights, to do things to."""
    path = tmp_path / "tiny.foundry"
    path.write_bytes(captured.read_bytes())
    for each in captured.parent.glob("*.weights"):
        (tmp_path / each.name).write_bytes(each.read_bytes())
    return path


def rewritten(path, change):
    """The archive with its content changed and every checksum right again: what a forger or a bug would leave."""
    archive.write(path, change(decode(archive.read(path))).sections())


def cause(path, **options):
    with pytest.raises(Refused) as caught:
        load(path, **options)
    return caught.value.cause


def test_a_fresh_process_leaves_the_bits_of_torch_compile(done):
    result = done.result
    assert result.exact
    assert [s.size for s in result.sizes] == [2, 3, 8]
    assert all(s.equal and s.control_differs for s in result.sizes)
    assert result.imported == []  # neither torch nor numpy nor pydantic
    assert 0 < result.drift < 1e-4  # beside the eager step: another order of sums, and the same step


def test_elsewhere_too_when_the_place_is_taken(done):
    assert done.result.elsewhere
    told = [event for _, event in done.events]
    at = told.index(next(e for e in told if isinstance(e, Act) and e.name == "place"))
    answer = next(e for e in told[at:] if isinstance(e, Offer) and e.name == "place" and e.note)
    assert answer.note == "it lies elsewhere, bits equal"


def test_a_damaged_copy_is_refused_and_captured_again(done):
    (one,) = done.result.damages
    assert (one.what, one.cause, one.equal) == (WORDS["bit"], "corrupt", True)
    assert 0 < one.refused_s < 60
    assert one.recaptured_s > one.refused_s
    assert any("refused, corrupt: " in e.text for _, e in done.events if isinstance(e, Note))
    refused = [e for _, e in done.events if isinstance(e, Span) and e.kind == "refused"]
    assert len(refused) == 1
    assert "flipped" in one.why


def test_what_it_tells_on_the_way(done):
    told = [event for _, event in done.events]
    assert {s.lane for s in told if isinstance(s, Span)} == {
        "capture", "fresh process", "damaged copy 1", "place taken", "Foundry, CPU analogue", "torch eager",
        "steps, by turns",
    }  # fmt: skip
    notes = [p.note for p in told if isinstance(p, Progress)]
    assert {"capture: import torch", "capture: batch 8", "fresh process: the control"} <= set(notes)
    assert len([p for p in told if isinstance(p, Point)]) == 9  # three ways, three sizes
    offers = [e for e in told if isinstance(e, Offer)]
    assert {e.name for e in offers if e.open} == set(OFFERS) == {e.name for e in offers if not e.open}


def test_ways_are_measured_in_processes_of_their_own(done):
    result = done.result
    (ours,), (eager,), (cold,) = (result.of(way) for way in ("foundry", "eager", "cold"))
    for each in (ours, eager, cold):
        assert 0 < each.import_s < each.load_s < each.ready_s
        assert list(result.step_us(each.way)) == [2, 3, 8]
    assert set(ours.phases) == {"archive", "weights", "graphs", "verify"}
    assert ours.peak_mb < eager.peak_mb
    assert all(r.equal for r in result.rows if r.way != "eager")
    assert result.summary()["load_s"] == ours.ready_s
    assert cold.ready_s < result.capture_s  # one process: it is ready as the cold way, and captures then
    assert all(r.step_us <= r.median_us for r in result.rows)
    with pytest.raises(ValueError, match="no way is called slow"):
        rivals.compare("none.foundry", ways=("slow",))


def test_one_template_serves_all_sizes(done, captured):
    (template,) = done.result.templates
    assert template.sizes == [2, 3, 8]
    assert explore.inspect(captured)["templates"][0]["kinds"]["gemm"] == 7  # qkv, 2 of attention, out, 2 of MLP, logits
    assert template.edges >= template.nodes - 2
    labels = {row["label"] for row in explore.between_sizes(captured, 2, 3)}
    assert labels >= {"mm [128, 64]", "bmm [32, 16]"}
    assert {c.kind for c in done.result.cells} == {"weight", "state", "input", "scratch", "number"}


@pytest.mark.parametrize(
    ("kind", "cause_"), [("bit", "corrupt"), ("cut", "truncated"), ("parameter", "mismatch"), ("machine", "foreign")]
)
def test_each_damage_has_its_cause(copied, tmp_path, kind, cause_):
    bad = tmp_path / "bad.foundry"
    assert len(damage(kind, copied, bad, seed=5)) > 20
    assert cause(bad, verify="templates") == cause_
    assert load(copied).verified == {2}  # the archive itself is as it was


def ask(job, folder, **more):
    return procs.ask(
        {"seed": 0, "taken": 0, "again": {}, "verify": "all", "prompt": [], "tokens": 0, **job},
        folder,
        "a loader",
        **more,
    )


def test_a_process_that_takes_too_long_is_named_and_ended(tmp_path):
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(TimeoutError, match=r"a loader took longer than 0 s at 'starting a loader': .* patience_s"):
        ask({"do": "rebuild", "path": "x"}, tmp_path, patience_s=0.01)
    flag = threading.Event()
    flag.set()
    with pytest.raises(Stopped):
        ask({"do": "rebuild", "path": "x"}, tmp_path, stop=flag)
    assert set(psutil.Process().children(recursive=True)) <= before


def test_what_a_process_says_is_told(tmp_path):
    heard = []
    job = {"do": "rebuild", "path": str(tmp_path / "none.foundry")}
    assert ask(job, tmp_path, hear=heard.append)["refused_s"] >= 0
    assert [f["cause"] for f in heard if f["is"] == "refused"] == ["missing"]
    with pytest.raises(RuntimeError, match=r"a loader failed at 'starting a loader': KeyError: 'fly'"):
        ask({"do": "fly"}, tmp_path)


def test_what_a_process_is_at_becomes_spans():
    said = queue.SimpleQueue()
    ear = Ear(said.put, "lane", 100.0, 10.0, 20.0)
    for what, at_s, done_, total in (("import torch", 1.0, 0, 0), ("batch 2", 4.0, 0, 2), ("batch 8", 6.0, 1, 2)):
        ear.hear({"is": "at", "what": what, "at_s": at_s, "done": done_, "total": total})
    ear.hear({"is": "refused", "cause": "corrupt", "why": "a bit", "at_s": 7.0})
    ear.end(8.0)
    spans = [(h.label, h.start_s, h.end_s, h.kind) for h in ear.held]
    assert spans == [
        ("start", 100.0, 101.0, "wait"), ("import torch", 101.0, 104.0, "import"), ("batch 2", 104.0, 106.0, "capture"),
        ("refused: corrupt", 107.0, 107.0, "refused"), ("batch 8", 106.0, 108.0, "capture"),
    ]  # fmt: skip
    assert ear.seconds == {"start": 1.0, "import torch": 3.0, "batch 2": 2.0, "batch 8": 2.0}
    shares = []
    while not said.empty():
        if isinstance(event := said.get(), Progress):
            shares.append(event.done)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(10 + 20 * 0.95 / 2)


def test_the_step_is_the_models(captured):
    """Negative control of every equality here: what is captured is the model's decode step, not just any."""
    runner = load(captured)
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
    assert differences(decode(archive.read(captured)).fingerprint, here) == []
    for name, other in {"torch": "2.12.0", "torch_cpu_build": "00", "cpu_vendor": "Other", "page_bytes": 16384}.items():
        with pytest.raises(Refused, match=name) as caught:
            load(captured, here=here | {name: other})
        assert caught.value.cause == "foreign"
    first, *others = here["cpu_features"]
    with pytest.raises(Refused, match=f"missing here {first};"):
        load(captured, here=here | {"cpu_features": others})


def test_another_archive_than_expected_is_refused(captured):
    right = archive.read(captured).id
    assert load(captured, expect=right).verified == {2}
    with pytest.raises(Refused, match="not the archive that was asked for"):
        load(captured, expect="00" * 16)


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
    runner = load(captured)
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
    said = explore.verify(captured)
    assert (said["usable"], said["verified_sizes"]) == (True, [2, 3, 8])
