"""An artifact comes back as it was saved; whatever is wrong with one is refused by name."""

import json

import pytest
import torch
from lte_toys import tiny_llama, tiny_sparse
from safetensors.torch import load_file, save_file

from workbench.lte.save import CONFIG, WEIGHTS, ArtifactError, _sha256, load, read, save

IDS = torch.randint(0, 64, (3, 9), generator=torch.Generator().manual_seed(5))
INFO = {"arm": "lte", "base": "b" * 64, "target": 0.5}


def logits(sparse):
    with torch.no_grad():
        return sparse.model(input_ids=IDS, use_cache=False).logits


@pytest.fixture
def tuned(sparse):
    """A sparse model whose every trained number is one of bfloat16, so that saving rounds nothing away."""
    draw = torch.Generator().manual_seed(3)
    for p in (sparse.model_parameters("lora") | sparse.router_parameters()).values():
        p.data = (torch.randn(p.shape, generator=draw) * 0.3).bfloat16().float()
    sparse.set_mode("hard")
    return sparse


def test_it_comes_back_to_the_bit(tuned, tmp_path):
    save(tmp_path, tuned, INFO)
    back = load(tmp_path, tiny_llama(), base=INFO["base"])
    assert torch.equal(logits(back), logits(tuned))
    assert read(tmp_path)[0]["target"] == 0.5
    assert not torch.equal(logits(back), logits(tiny_sparse()))


def test_the_dense_arm_has_no_routers(tuned, tmp_path):
    save(tmp_path, tuned, INFO | {"arm": "dense"})
    back = load(tmp_path, tiny_llama())
    tuned.set_mode("dense")
    assert torch.equal(logits(back), logits(tuned))
    assert all(name.startswith("lora.") for name in read(tmp_path)[1])


def edit(folder, change, resign=True):
    """Change tensors in place; `resign` makes the checksum fit again."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    if resign:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | {"sha256": _sha256(folder / WEIGHTS)}))


def twice(tensors):
    tensors["grouping.1"][0, 0] = tensors["grouping.1"][0, 1]


BROKEN = {
    "truncated": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]), "does not have the checksum"),
    "one byte": (lambda f: edit(f, lambda t: t["router.0.bias"].add_(1), resign=False), "does not have the checksum"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "is missing"),
    "no config": (lambda f: (f / CONFIG).unlink(), "no readable config.json"),
    "not json": (lambda f: (f / CONFIG).write_text("{"), "no readable config.json"),
    "a list": (lambda f: (f / CONFIG).write_text("[]"), "lacks its keys"),
    "no keys": (lambda f: (f / CONFIG).write_text('{"format": 1}'), "lacks layers, hidden"),
    "no number": (lambda f: edit(f, lambda t: t["router.0.weight"].fill_(float("nan"))), "values that are no numbers"),
    "no grouping": (lambda f: edit(f, lambda t: t.pop("grouping.1")), "grouping.1"),
    "no permutation": (lambda f: edit(f, twice), "each of the 128 neurons exactly once"),
    "no router": (lambda f: edit(f, lambda t: t.pop("router.1.bias")), r"router.1.bias .* is not \[4\]"),
    "no adapter": (lambda f: edit(f, lambda t: t.pop("lora.model.layers.0.mlp.up_proj.a")), "of another model"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_artifact_is_refused(what, tuned, tmp_path):
    save(tmp_path, tuned, INFO)
    load(tmp_path, tiny_llama())  # the control: it is fine before
    spoil, says = BROKEN[what]
    spoil(tmp_path)
    with pytest.raises(ArtifactError, match=says):
        load(tmp_path, tiny_llama())


@pytest.mark.parametrize("arm", ["lte", "dense"])
def test_one_that_does_not_fit_leaves_the_model_as_it_was(arm, tuned, tmp_path):
    save(tmp_path / "right", tuned, INFO | {"arm": arm})
    save(tmp_path / "wrong", tuned, INFO | {"arm": arm})
    edit(tmp_path / "wrong", lambda t: t.pop("lora.model.layers.1.self_attn.v_proj.b"))
    model = tiny_llama()
    names, before = list(dict(model.named_modules())), model(input_ids=IDS).logits
    with pytest.raises(ArtifactError, match="it is of another model"):
        load(tmp_path / "wrong", model)
    assert list(dict(model.named_modules())) == names
    assert torch.equal(model(input_ids=IDS).logits, before)
    tuned.set_mode("hard" if arm == "lte" else "dense")
    assert torch.equal(logits(load(tmp_path / "right", model)), logits(tuned))


def test_another_format_model_or_base_is_refused(tuned, tmp_path):
    save(tmp_path, tuned, INFO)
    with pytest.raises(ArtifactError, match="was trained on weights bbbbbbbbbbbb, these are cccc"):
        load(tmp_path, tiny_llama(), base="c" * 64)
    with pytest.raises(ArtifactError, match=r"\(2, 128, 32\), this one has \(2, 256, 32\)"):
        load(tmp_path, tiny_llama(inner=256))
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | {"format": 2}))
    with pytest.raises(ArtifactError, match="format 2, this version reads 1"):
        read(tmp_path)
