"""Chains, scores and members against minimap2 2.24 itself: all real ultra-long reads, and repeats of human X."""

import functools

import minimap2_oracle as oracle
import numpy as np
import pytest

from workbench.kernels import chain as ck

pytestmark = pytest.mark.minimap2
MODES = {"exact_skip25": 25, "full": None}
NO_LIMIT = 100_000_000  # how minimap2 is told to look at every predecessor


@pytest.fixture(autouse=True)
def _needs_minimap2():
    oracle.require()


def simulated(reference, folder, lengths, total, identity, seed):
    """FASTA of reads from places that hold bases, half of them beside the largest gap, where the satellites are."""
    random = np.random.default_rng(seed)
    (_, text), *_ = oracle.sequences(reference)
    bases = np.frombuffer(text.upper().encode(), np.uint8)
    gap = np.flatnonzero(bases == ord("N"))
    complement = np.zeros(256, np.uint8)
    complement[list(b"ACGTN")] = list(b"TGCAN")
    letters, out, made = np.frombuffer(b"ACGT", np.uint8), [], 0
    while made < total:
        length = int(np.exp(random.uniform(*np.log(lengths))))
        start = int(random.integers(len(bases) - length))
        if len(out) % 2:  # beside the gap
            start = int(
                gap[0] - length - random.integers(50_000) if len(out) % 4 == 1 else gap[-1] + random.integers(50_000)
            )
        read = bases[start : start + length].copy()
        if (read == ord("N")).mean() > 0.1:
            continue
        if random.integers(2):
            read = complement[read[::-1]]
        kind = random.random(length) / (1 - identity)
        changed = kind < 0.4
        read[changed] = random.choice(letters, changed.sum())
        copies = np.where(kind < 0.4, 1, np.where(kind < 0.75, 0, np.where(kind < 1, 2, 1)))
        out.append(f">r{len(out)}\n{np.repeat(read, copies).tobytes().decode()}\n")
        made += length
    path = folder / "reads.fa"
    path.write_text("".join(out))
    return path


@functools.cache
def seen(reference, reads, skip, join, preset="map-ont"):
    """What minimap2 says of these reads."""
    limit = f"--max-chain-skip={NO_LIMIT if skip is None else skip}"
    return list(oracle.run(reference, reads, "-x", preset, "-P", limit, *([] if join else ["--no-long-join"])))


@pytest.fixture(scope="session")
def human(tmp_path_factory):
    reference = oracle.data("grch37_chrX_58-68Mb.fa.gz")
    return reference, simulated(reference, tmp_path_factory.mktemp("reads"), (10_000, 80_000), 200_000, 0.95, 7)


@pytest.fixture(scope="session")
def coli():
    return oracle.data("ecoli_k12_mg1655.fa.gz"), oracle.data("ecoli_ultralong_ont_2017.fa.gz")


def mistakes(reads, chained):
    """Names of reads whose chains, with score and members, are not those that minimap2 gave."""
    wrong, compared = [], 0
    for read in reads:
        found = chained(read)
        ours = sorted((score, found.anchors[members].tobytes()) for score, members in found)
        assert len(read.scores) == len(read.chains), f"{read.name}: minimap2 told no scores"
        theirs = sorted((score, each.tobytes()) for score, each in zip(read.scores, read.chains))
        compared += len(theirs)
        if ours != theirs:
            wrong.append(read.name)
    assert compared > 100
    return wrong


def backends(params):
    return [name for name in ck.available(params) if name != "reference"]


@pytest.mark.parametrize("mode", MODES)
def test_all_real_reads(coli, mode):
    reads = seen(*coli, MODES[mode], False)
    assert len(reads) == 371
    params = ck.ChainParams(max_skip=MODES[mode])
    for backend in backends(params):
        assert mistakes(reads, lambda read, by=backend: ck.chain(read.anchors, params, backend=by)) == []


@pytest.mark.parametrize("mode", MODES)
def test_repeats_of_human_x(human, mode):
    reads = seen(*human, MODES[mode], False)
    params = ck.ChainParams(max_skip=MODES[mode])
    pairs = sum(int(ck.stats(read.anchors, params).pairs.sum()) for read in reads)
    assert pairs / sum(read.length for read in reads) > 100  # satellites: far more work a base than in unique sequence
    for backend in backends(params):
        assert mistakes(reads, lambda read, by=backend: ck.chain(read.anchors, params, backend=by)) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("reads", ["coli", "human"])
def test_the_long_join(reads, mode, request):
    told = seen(*request.getfixturevalue(reads), MODES[mode], True)
    params = ck.ChainParams(max_skip=MODES[mode])
    assert mistakes(told, lambda read: ck.chain_read(read.anchors, params, read.length)) == []
    joined = sum(ck.join_needed(ck.chain(read.anchors, params), params, read.length) for read in told)
    assert joined > 0
    assert reads == "human" or joined < len(told)


@pytest.mark.parametrize("preset", ["map-pb", "map-hifi"])
def test_other_presets(human, preset):
    """Spans that differ from seed to seed (homopolymers count once), k = 19, a wider window."""
    reads = seen(*human, 25, True, preset)
    params = ck.preset(preset)
    if preset == "map-pb":
        assert len({int(span) for read in reads for span in read.anchors[:, 1] >> np.uint64(32)}) > 5
    assert mistakes(reads, lambda read: ck.chain_read(read.anchors, params, read.length)) == []


def test_a_stable_sort_is_seen(human, monkeypatch):
    """Control: walking equal scores in stable order gives other chains on repeats."""
    from workbench.kernels.chain import reference

    params = ck.ChainParams(max_skip=None)
    monkeypatch.setattr(reference, "sort_order", lambda keys: sorted(range(len(keys)), key=keys.__getitem__))

    def stable(read):
        f, p, v = ck.dp(read.anchors, params)
        u, members = ck.backtrack(f, p, v, params, backend="reference")
        return ck.Chains(read.anchors, f, p, v, u, members)

    assert mistakes(seen(*human, None, False), stable) != []
