"""Splits leak nothing, batches are a function of their number, padding changes no answer, intervals hold."""

import hashlib
import io
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from lte_toys import tiny_sparse, toy

from workbench.lm import fetch
from workbench.lm.tokenizer import ByteTokenizer
from workbench.lte import corpora, tasks
from workbench.lte.data import Example, collate, in_batches, labelled, part_of, training_batch, windows
from workbench.lte.evaluate import difference, measure, perplexity, proportion

TOKENS = ByteTokenizer()


def test_a_text_has_one_part_whoever_asks():
    texts = [f"sentence number {i}" for i in range(4000)]
    shares = {part: sum(part_of(t) == part for t in texts) / 4000 for part in ("train", "valid", "test")}
    assert shares == pytest.approx({"train": 0.75, "valid": 0.05, "test": 0.2}, abs=0.03)
    assert all(part_of(f"  {t.upper()}\n") == part_of(t) for t in texts[:50])


def test_sentences_become_examples_once_and_neutral_ones_none():
    rows = [(f"text {i}", score) for i, score in enumerate([2.0, -2.0, 0.4, -0.5, 0.6] * 20)]
    parts = labelled([*rows, *rows], TOKENS, "R: {text}\nS:")
    found = [e for part in parts.values() for e in part]
    assert len(found) == 60
    assert sum(e.label for e in found) == 40
    assert all(TOKENS.decode(e.ids).endswith("\nS:") for e in found)


def test_the_first_held_out_windows_are_a_sample_of_all():
    """News first, encyclopedia after: in the files' order the first windows would be news alone."""
    documents = [f"{kind}{i:09}" * 2 for kind in "ne" for i in range(400)]  # two windows each
    parts = windows(documents, TOKENS, 10)
    news = {part: [TOKENS.decode(e.ids)[0] == "n" for e in rows] for part, rows in parts.items()}
    for part, least in (("test", 200), ("valid", 40)):
        assert len(news[part]) > least
        some = news[part][: len(news[part]) // 3]
        assert 0.25 < sum(some) / len(some) < 0.75
    assert news["train"] == sorted(news["train"], reverse=True)  # as they come: batches are drawn from it by lot


def test_windows_do_not_cross_documents():
    parts = windows(["a" * 25, "b" * 9, "c" * 30], TOKENS, 10)
    cuts = [TOKENS.decode(e.ids) for part in parts.values() for e in part]
    assert sorted(cuts) == ["a" * 10] * 2 + ["c" * 10] * 3


def test_batches_follow_from_their_number_and_cover_an_epoch():
    examples = [Example(tuple(range(1, 2 + i % 17)), i) for i in range(160)]
    once = [training_batch(examples, 16, step, seed=3) for step in range(20)]
    again = training_batch(examples, 16, 13, seed=3)
    assert torch.equal(once[13].ids, again.ids)
    first = sorted(label for batch in once[:10] for label in batch.labels.tolist())
    assert first == list(range(160))
    assert not torch.equal(once[0].labels, once[10].labels)  # another order each epoch
    padding = 1 - np.mean([float(b.keep.float().mean()) for b in once])
    plain = collate(examples[:16])
    assert padding < 0.5 * (1 - float(plain.keep.float().mean()))
    with pytest.raises(ValueError, match="3 examples do not fill a batch of 16"):
        training_batch(examples[:3], 16, 0, 0)
    with pytest.raises(ValueError, match="at least one token"):
        collate([Example(())])


@pytest.mark.parametrize("mode", ["dense", "soft", "hard"])
def test_mixed_lengths_answer_as_each_alone(mode):
    sparse, task = tiny_sparse(), toy()
    for layer in sparse.layers:
        layer.router.weight.data.mul_(20)
        layer.router.bias.data.zero_()
    sparse.set_mode(mode)
    examples = task.examples("test")[:12]
    with torch.no_grad():
        together = task.logits(sparse, collate(examples, pad=7))
        alone = torch.cat([task.logits(sparse, collate([e])) for e in examples])
        unmasked = sparse.hidden(collate(examples, pad=7).ids)[:, -1]
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert len({len(e.ids) for e in examples}) > 3
    assert not torch.allclose(unmasked[0], sparse.hidden(torch.tensor([examples[0].ids]))[0, -1], atol=1e-3)


def test_measured_sparsity_leaves_padding_out():
    sparse, task = tiny_sparse(), toy()
    sparse.layers[0].router.weight.data.mul_(20)
    sparse.set_mode("hard")
    examples = task.examples("test")[:40]
    whole = measure(sparse, task, examples).sparsity
    counted, tokens = torch.zeros(2), 0
    for e in examples:  # one by one there is no padding
        with torch.no_grad():
            sparse.hidden(torch.tensor([e.ids]))
        counted += torch.stack([(g <= 0.5).float().mean(-1).sum() for g in sparse.gates()])
        tokens += len(e.ids)
    assert whole == pytest.approx((counted / tokens).tolist(), abs=1e-3)
    assert len(in_batches(examples, 32)) == 2


def test_routers_and_stand_ins_are_read_for_every_token():
    plain, with_stand_ins = tiny_sparse(), tiny_sparse(stand_in=2)
    for sparse, extra in ((plain, 0), (with_stand_ins, 2 * 2 + 1)):
        sparse.set_mode("hard")
        found = measure(sparse, toy(), toy().examples("test")[:8])
        router = len(sparse.layers[0].grouping) * (32 + 1)  # of a hidden state of 32; biases too
        beside = (router + extra * 32) / (3 * 32 * 128)
        assert found.unread == pytest.approx(found.mean_sparsity - beside)
    plain.set_mode("dense")
    assert measure(plain, toy(), toy().examples("test")[:8]).unread == 0.0


def test_language_modelling_by_hand():
    sparse = tiny_sparse()
    parts = {"train": [], "valid": [], "test": [Example((3, 1, 4, 1, 5)), Example((9, 2, 6))]}
    task = tasks.LanguageModelling(parts)
    got = task.nll(sparse, parts["test"])
    with torch.no_grad():
        by_hand = [
            float(sparse.model(input_ids=torch.tensor([e.ids]), labels=torch.tensor([e.ids])).loss)
            for e in sorted(parts["test"], key=lambda e: len(e.ids))
        ]
    assert got == pytest.approx(by_hand, rel=1e-4)
    assert task.score(sparse, parts["test"]) == pytest.approx(-sum(by_hand) / 2, rel=1e-4)
    assert len(measure(sparse, task, parts["test"]).nll) == 2


def test_intervals():
    half = proportion([True, False] * 500)
    assert (half.value, half.n) == (0.5, 1000)
    assert (half.low, half.high) == pytest.approx((0.469, 0.531), abs=1e-3)
    assert proportion([True] * 20).low < 1
    same = difference([True, False] * 50, [True, False] * 50)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    gap = difference([True] * 90 + [False] * 10, [True] * 80 + [False] * 20)
    assert gap.value == pytest.approx(0.1)
    assert gap.low > 0
    found = perplexity([1.0, 2.0, 3.0] * 40)
    assert found.value == pytest.approx(np.exp(2.0))
    assert found.low < found.value < found.high
    with pytest.raises(ValueError, match="no examples"):
        proportion([])


def test_markup_goes_and_text_stays():
    line = (
        "The '''letter''' A is the [[first letter|first]] of the [[alphabet]]{{citation needed}}, "
        + "so it goes on. " * 3
    )
    text = f"{{{{Infobox\n|a={{{{b}}}}}}}}\n== Head ==\n{line}<ref>x</ref>\n* item\n[[File:a.jpg|thumb|A [[b]] c]]"
    assert corpora.strip_markup(text) == " ".join(line.replace("'''", "").split()).replace(
        "[[first letter|first]]", "first"
    ).replace("[[alphabet]]{{citation needed}}", "alphabet")


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """An empty cache, and a package of our own making in place of the real one."""
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    corpora.sentences.cache_clear()
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        text = b"1\t2.5\tA fine film.\n2\t-1.5\tA dull one.\nbroken line\n"
        member = tarfile.TarInfo("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz", inner.getvalue())
    content = outer.getvalue()
    own = corpora.Package("vaderSentiment==0.5", "v.zip", hashlib.sha256(content).hexdigest(), (), 0.1)
    monkeypatch.setattr(corpora, "VADER", own)
    yield content, tmp_path / "texts" / "v.zip"
    corpora.sentences.cache_clear()


def test_texts_are_fetched_once_and_kept(shelf, monkeypatch):
    content, kept = shelf
    asked = []

    def download(command, log, beat):
        asked.append(command)
        target = type(kept)(command[command.index("--dest") + 1])
        target.mkdir()
        (target / "v.zip").write_bytes(content)
        return ""

    monkeypatch.setattr(fetch, "_run", download)
    for _ in range(2):
        corpora.sentences.cache_clear()
        assert corpora.sentences() == (("A fine film.", 2.5), ("A dull one.", -1.5))
    assert len(asked) == 1
    assert "--no-deps" in asked[0]
    assert kept.is_file()


def test_no_network_is_one_clear_error(shelf, monkeypatch):
    monkeypatch.setattr(fetch, "_run", lambda command, log, beat: "failed: no route to host")
    with pytest.raises(corpora.TextUnavailable, match=r"pip failed: no route(?s:.*)or put v\.zip \(0\.1 MB\) into"):
        corpora.sentences()
    assert not list(shelf[1].parent.glob("*"))


def test_a_damaged_file_is_refused(shelf):
    content, kept = shelf
    kept.parent.mkdir()
    kept.write_bytes(content[:-1])
    with pytest.raises(corpora.TextUnavailable, match="is damaged or another version; remove it"):
        corpora.sentences()


def test_a_tokenizer_without_the_words_is_refused():
    with pytest.raises(ValueError, match="are not one token each"):
        tasks.sentiment(TOKENS)


def test_the_offset_that_decides_most_rightly():
    from workbench.lte.tasks import best_offset

    assert -best_offset([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1]) == pytest.approx(2.5)
    assert -best_offset([1.0, 2.0], [1, 1]) < 1.0  # everything is positive
    assert -best_offset([1.0, 2.0], [0, 0]) > 2.0
    margins, labels = [5.0, 5.5, 6.0, 7.0, 8.0], [0, 1, 0, 1, 1]
    cut = -best_offset(margins, labels)
    assert sum((m > cut) == bool(y) for m, y in zip(margins, labels)) == 4
