"""The tiny model's folder: the same weights for the same seed, and a tokenizer whose tokens are bytes."""

import pytest

from workbench.lm.tiny_folder import CONFIG, write_tiny
from workbench.lm.tokenizer import ByteTokenizer, FileTokenizer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"), seed=3, tokenizer=True)


def test_the_seed_decides(tiny, tmp_path):
    same, other = write_tiny(tmp_path / "same", 3), write_tiny(tmp_path / "other", 4)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tiny, same, other)]
    assert weights[0] == weights[1] != weights[2]
    assert not (same / "tokenizer.json").exists()


@pytest.mark.parametrize("text", ["plain", "ünï · 中文 · 🧬\n\n\ttabs", "".join(map(chr, range(256)))])
def test_a_token_is_a_byte(tiny, text):
    ours = FileTokenizer(tiny)
    assert ours.encode(text) == ByteTokenizer().encode(text)
    assert ours.decode(ours.encode(text)) == text
    assert ours.decode(ours.encode("é")[:1]) == "\ufffd"


def test_what_is_no_byte_is_special(tiny):
    ours = FileTokenizer(tiny)
    assert ours.encode("<eos>") == [CONFIG["eos_token_id"]]
    assert ours.decode([256, 300, 511]) == "<bos><300><511>"
    assert ours.decode(ours.chat([{"role": "user", "content": "hi"}])) == "user: hi\nassistant: "
