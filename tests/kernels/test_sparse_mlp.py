"""Every loop of the sparse MLP against its definition, within what rounding allows; and what must not change a bit."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as fn

from workbench.kernels import sparse_mlp as sm

DTYPES = (torch.float32, torch.bfloat16)
LOOPS = [(dtype, loop) for dtype in DTYPES for loop in sm.available(dtype)]
MASKS = ("zero", "all", "single", "per row")


def weights(hidden, experts, seed=0):
    torch.manual_seed(seed)
    inner = experts * sm.NEURONS
    gate, up = torch.randn(2, inner, hidden) / math.sqrt(hidden)
    return gate, up, torch.randn(hidden, inner) / math.sqrt(inner), torch.randperm(inner).view(experts, sm.NEURONS)


def layer(hidden, experts, dtype, seed=0):
    return sm.pack(*weights(hidden, experts, seed), dtype)


def mask(kind, rows, experts):
    active = {"zero": torch.zeros, "all": torch.ones}.get(kind, torch.zeros)(rows, experts, dtype=torch.bool)
    if kind == "single":
        active[rows // 2, experts // 2] = True
    if kind == "per row":
        active = torch.rand(rows, experts) < 0.4
    return active


def slack(x, packed, active):
    """How far from the definition a right answer may be: rounding in sums, activations next to a tie of bfloat16."""
    kind = packed.gate.dtype
    x, gate, up, down = (t.to(kind).double() for t in (x, packed.gate, packed.up, packed.down))
    g, u = x @ gate.T, x @ up.T
    h = fn.silu(g) * u
    near = 1e-6 * ((x.abs() @ gate.abs().T) * u.abs() + g.abs() * (x.abs() @ up.abs().T)) + 1e-9
    jump = 2 * near + ((h + near).to(kind).double() - (h - near).to(kind).double()).abs()
    used = torch.zeros(h.shape, dtype=torch.bool)
    for expert, own in enumerate(packed.grouping):
        used[:, own] = active[:, expert, None]
    return ((jump + 1e-6 * h.abs()) * used) @ down.abs().T + 1e-9


def assert_right(y, x, packed, active):
    right = sm.sparse_mlp(x, packed, active, backend="reference")
    allowed = slack(x, packed, active)
    assert y.dtype == torch.float32
    assert ((y - right).abs() <= allowed).all(), (
        f"off by {((y - right).abs() / allowed).max():.3g} of what rounding allows"
    )


@pytest.mark.parametrize(("dtype", "loop"), LOOPS, ids=str)
@pytest.mark.parametrize("hidden", [7, 33, 72, 96, 200])  # not multiples of 16, of 32, both
def test_every_loop_is_the_definition(dtype, loop, hidden):
    packed = layer(hidden, 3, dtype)
    for rows in [*range(1, 17), 19, 33]:
        x = torch.randn(rows, hidden)
        for kind in MASKS:
            active = mask(kind, rows, 3)
            assert_right(sm.sparse_mlp(x, packed, active, backend=loop), x, packed, active)
            assert not sm.sparse_mlp(x, packed, active, backend=loop)[~active.any(dim=1)].any()


def test_what_rounding_allows_is_little():
    """The control of `slack`: one bfloat16 step of one weight, or one expert too few, is far outside."""
    packed = layer(96, 3, torch.bfloat16)
    x, active = torch.randn(8, 96), torch.ones(8, 3, dtype=torch.bool)
    y = sm.sparse_mlp(x, packed, active)
    assert slack(x, packed, active).median() < 2e-3 * y.abs().mean()
    fewer = active.clone()
    fewer[3, 1] = False
    with pytest.raises(AssertionError, match="rounding"):
        assert_right(y, x, packed, fewer)


def test_the_definition_is_the_plain_mlp():
    """With every expert active the reference is what the model computes."""
    gate, up, down, grouping = weights(40, 4)
    x = torch.randn(5, 40)
    plain = (fn.silu(x @ gate.T) * (x @ up.T)) @ down.T
    packed = sm.pack(gate, up, down, grouping)
    every = torch.ones(5, 4, dtype=torch.bool)
    torch.testing.assert_close(sm.sparse_mlp(x, packed, every, backend="reference"), plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "loop"), LOOPS, ids=str)
def test_union_is_every_row_with_all_used_experts(dtype, loop):
    packed, x = layer(48, 6, dtype), torch.randn(9, 48)
    active = torch.rand(9, 6) < 0.15
    every = active.any(dim=0).expand(9, -1)
    assert active.any()
    assert not every.all()
    y = sm.sparse_mlp(x, packed, active, backend=loop, union=True)
    assert torch.equal(y, sm.sparse_mlp(x, packed, every, backend=loop))
    assert not torch.equal(y, sm.sparse_mlp(x, packed, active, backend=loop))


@pytest.mark.parametrize(("dtype", "loop"), LOOPS, ids=str)
def test_a_flipped_weight_shows_only_where_its_expert_is_active(dtype, loop):
    gate, up, down, grouping = weights(50, 3)
    x, active = torch.randn(7, 50), torch.zeros(7, 3, dtype=torch.bool)
    active[:, 0] = active[2, 1] = True
    before = sm.sparse_mlp(x, sm.pack(gate, up, down, grouping, dtype), active, backend=loop)
    for which, place in ((gate, lambda n: (n, 49)), (up, lambda n: (n, 0)), (down, lambda n: (17, n))):
        for expert in range(3):
            at = place(int(grouping[expert, 21]))
            kept, which[at] = float(which[at]), -which[at] - 1
            after = sm.sparse_mlp(x, sm.pack(gate, up, down, grouping, dtype), active, backend=loop)
            which[at] = kept
            changed = (before != after).any(dim=1)
            assert torch.equal(changed, active[:, expert])


@pytest.mark.parametrize(("dtype", "loop"), LOOPS, ids=str)
def test_not_a_number_stays_where_it_is_used(dtype, loop):
    gate, up, down, grouping = weights(64, 2)
    gate[grouping[1]] = math.nan
    down[:, grouping[1]] = math.nan
    packed = sm.pack(gate, up, down, grouping, dtype)
    active = torch.ones(16, 2, dtype=torch.bool)
    active[:, 1] = torch.arange(16) % 3 == 0
    y = sm.sparse_mlp(torch.randn(16, 64), packed, active, backend=loop)
    lost = y.isnan().any(dim=1)
    if loop != "amx":
        assert torch.equal(lost, active[:, 1])
    else:  # tiles multiply every row: a row that does not use an expert adds zeros, and 0 * NaN is NaN
        assert lost[active[:, 1]].all()
    y = sm.sparse_mlp(torch.randn(16, 64), packed, active & torch.tensor([True, False]), backend=loop)
    assert not y.isnan().any()
    x = torch.randn(16, 64)
    x[5] = math.inf
    y = sm.sparse_mlp(x, layer(64, 2, dtype), torch.ones(16, 2, dtype=torch.bool), backend=loop)
    assert torch.equal(y.isfinite().all(dim=1), torch.arange(16) != 5)  # a bad row is lost alone


@pytest.mark.parametrize(("dtype", "loop"), LOOPS, ids=str)
def test_the_order_of_experts_and_of_their_neurons_does_not_matter(dtype, loop):
    gate, up, down, grouping = weights(80, 5)
    x, active = torch.randn(6, 80), torch.rand(6, 5) < 0.6
    packed = sm.pack(gate, up, down, grouping, dtype)
    order = torch.randperm(5)
    other = sm.pack(gate, up, down, grouping[order][:, torch.randperm(sm.NEURONS)], dtype)
    y = sm.sparse_mlp(x, other, active[:, order], backend=loop)
    assert_right(y, x, packed, active)
    if not torch.equal(active, active[:, order]):
        with pytest.raises(AssertionError, match="rounding"):
            assert_right(sm.sparse_mlp(x, other, active, backend=loop), x, packed, active)


@pytest.mark.parametrize("loop", sm.available(torch.bfloat16))
def test_bfloat16_rounds_to_nearest_even_and_nothing_else(loop):
    gate, up, down, grouping = weights(32, 2)
    x, every = torch.randn(8, 32), torch.ones(8, 2, dtype=torch.bool)
    rounded = [t.bfloat16().float() for t in (gate, up, down)]
    first = sm.sparse_mlp(x, sm.pack(gate, up, down, grouping, torch.bfloat16), every, backend=loop)
    assert torch.equal(first, sm.sparse_mlp(x, sm.pack(*rounded, grouping, torch.bfloat16), every, backend=loop))
    assert torch.equal(
        first, sm.sparse_mlp(x.bfloat16(), sm.pack(*rounded, grouping, torch.bfloat16), every, backend=loop)
    )
    exact = sm.sparse_mlp(x, sm.pack(gate, up, down, grouping, torch.float32), every)
    assert (first - exact).abs().max() > 1e-4  # control: rounding did happen
    cut = [(t.view(torch.int32) & -65536).view(torch.float32) for t in (gate, up, down)]  # towards zero
    assert not torch.equal(first, sm.sparse_mlp(x, sm.pack(*cut, grouping, torch.bfloat16), every, backend=loop))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_shape_and_mask(data):
    dtype, loop = data.draw(st.sampled_from(LOOPS))
    hidden, experts, rows = data.draw(st.tuples(st.integers(1, 130), st.integers(1, 6), st.integers(1, 18)))
    packed = layer(hidden, experts, dtype, data.draw(st.integers(0, 9)))
    bits = data.draw(st.lists(st.booleans(), min_size=rows * experts, max_size=rows * experts))
    active, union = torch.tensor(bits).view(rows, experts), data.draw(st.booleans())
    x = torch.randn(rows, hidden) * data.draw(st.sampled_from([1e-3, 1.0, 30.0]))
    used = active.any(dim=0).expand_as(active) if union else active
    assert_right(sm.sparse_mlp(x, packed, active, backend=loop, union=union), x, packed, used)


def test_tensors_that_are_no_plain_rows():
    packed, active = layer(40, 3, torch.float32), torch.rand(4, 3) < 0.7
    x = torch.randn(40, 4).T
    assert not x.is_contiguous()
    y = sm.sparse_mlp(x.contiguous(), packed, active)
    assert torch.equal(sm.sparse_mlp(x, packed, active), y)
    assert torch.equal(sm.sparse_mlp(x, packed, active.T.contiguous().T), y)
    assert torch.equal(sm.sparse_mlp(x.double(), packed, active), y)
    out = x.contiguous().clone()
    assert sm.sparse_mlp(out, packed, active, out=out) is out  # in place
    assert torch.equal(out, y)
    assert sm.sparse_mlp(torch.randn(0, 40), packed, torch.zeros(0, 3, dtype=torch.bool)).shape == (0, 40)


def test_a_bound_call_follows_its_tensors():
    for dtype in DTYPES:
        packed = layer(48, 4, dtype)
        router = sm.pack_router(torch.randn(4, 48), torch.randn(4), dtype)
        x, active, out = torch.randn(3, 48), torch.rand(3, 4) < 0.5, torch.empty(3, 48)
        call = sm.bound(x, packed, active, out)
        for _ in range(2):
            x.normal_()
            active.copy_(torch.rand(3, 4) < 0.5)
            call()
            assert torch.equal(out, sm.sparse_mlp(x, packed, active))
        sm.bound(x, packed, active, out, router=router)()
        assert torch.equal(active, sm.route(x, router))
        assert torch.equal(out, sm.sparse_mlp(x, packed, active))
    with pytest.raises(ValueError, match="contiguous"):
        sm.bound(torch.randn(48, 3).T, packed, active, out)


def test_bad_input_is_named():
    packed, x, active = layer(48, 2, torch.float32), torch.randn(3, 48), torch.ones(3, 2, dtype=torch.bool)
    for call, says in (
        (lambda: sm.sparse_mlp(x[:, :47], packed, active), r"x must be \[rows, 48\]"),
        (lambda: sm.sparse_mlp(x[0], packed, torch.ones(48, 2, dtype=torch.bool)), r"x must be"),
        (lambda: sm.sparse_mlp(x, packed, active[:2]), r"active must be bool \[3, 2\]"),
        (lambda: sm.sparse_mlp(x, packed, active.float()), "not torch.float32"),
        (lambda: sm.sparse_mlp(x, packed, active, out=torch.empty(3, 49)), "out must be"),
        (lambda: sm.sparse_mlp(x, packed, active, out=torch.empty(3, 48, dtype=torch.bfloat16)), "out must be"),
        (lambda: sm.sparse_mlp(x, packed, active, backend="amx"), "no loop amx for float32"),
        (lambda: sm.sparse_mlp(x, packed, active, backend="sse"), "no loop sse"),
        (lambda: sm.sparse_mlp(x.to("meta"), packed, active, backend="cpu"), "'cpu' runs on the CPU, and x is on meta"),
        (lambda: sm.sparse_mlp(x.to("meta"), packed, active, backend="avx2"), "'avx2' runs on .* move it there"),
        (lambda: sm.sparse_mlp(x.to("meta"), packed, active, backend="sse"), "'sse' runs on the CPU"),
        (lambda: sm.pack(torch.ones(40, 8), torch.ones(40, 8), torch.ones(8, 40)), "40 neurons.*multiple of 32"),
        (lambda: sm.pack(torch.ones(64, 8), torch.ones(64, 9), torch.ones(8, 64)), "do not fit"),
        (lambda: sm.pack(*weights(8, 2)[:3], torch.zeros(2, 32, dtype=torch.long)), "once"),
        (lambda: sm.pack(*weights(8, 2)[:3], dtype="float16"), "float32 or bfloat16"),
        (lambda: sm.pack_router(torch.ones(2, 8), torch.ones(3)), "do not fit"),
        (lambda: sm.pack_router(torch.ones(2, 8), torch.ones(2), threshold=1.0), "between 0 and 1"),
        (lambda: sm.route_and_run(x, packed, sm.pack_router(torch.ones(3, 48), torch.ones(3))), "another shape"),
    ):
        with pytest.raises(ValueError, match=says):
            call()


@pytest.mark.parametrize(("dtype", "loop"), LOOPS, ids=str)
def test_the_router_decides_as_its_definition(dtype, loop):
    for hidden, experts, rows in ((40, 3, 1), (72, 33, 5), (100, 48, 17)):
        torch.manual_seed(rows)
        w, bias, x = torch.randn(experts, hidden), torch.randn(experts), torch.randn(rows, hidden)
        for threshold in (0.5, 0.9):
            router = sm.pack_router(w, bias, dtype, threshold)
            logits = x.to(dtype).double() @ w.to(dtype).double().T + bias
            active = sm.route(x, router, backend=loop)
            clear = (logits.sigmoid() - threshold).abs() > 1e-5
            assert clear.float().mean() > 0.99
            assert torch.equal(active[clear], (logits.sigmoid() > threshold)[clear])
            assert torch.equal(active[clear], sm.route(x, router, backend="reference")[clear])
        packed = layer(hidden, experts, dtype)
        y, chosen = sm.route_and_run(x, packed, router, backend=loop)
        assert torch.equal(chosen, active)
        assert torch.equal(y, sm.sparse_mlp(x, packed, active, backend=loop))


def test_traffic_is_that_of_the_experts_used():
    packed = layer(64, 5, torch.bfloat16)
    assert packed.expert_bytes == 3 * 32 * 64 * 2
    active = torch.tensor([[1, 0, 0, 1, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    assert sm.traffic_bytes(packed, active) == 2 * packed.expert_bytes


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torch_compile_keeps_the_operator_in_one_graph(dtype):
    packed = layer(48, 3, dtype)
    x, active = torch.randn(4, 48), torch.rand(4, 3) < 0.5

    def block(x, active):
        return sm.sparse_mlp(x * 2, packed, active, union=True) + 1

    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(block, fullgraph=True, backend=keep)
    assert torch.equal(compiled(x, active), block(x, active))
    assert "workbench.sparse_mlp" in graphs[0].code
    torch._dynamo.reset()
    assert torch.equal(torch.compile(block, fullgraph=True, backend="aot_eager")(x, active), block(x, active))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torch_compile_fills_the_tensor_that_is_given(dtype):
    packed = layer(48, 3, dtype)
    x, active = torch.randn(4, 48), torch.rand(4, 3) < 0.5

    def block(x, active, out):
        return sm.sparse_mlp(x, packed, active, out=out)

    torch._dynamo.reset()
    for backend in ("eager", "aot_eager"):
        out = torch.full((4, 48), 7.0)
        y = torch.compile(block, fullgraph=True, backend=backend)(x, active, out)
        assert torch.equal(out, sm.sparse_mlp(x, packed, active))
        assert y.data_ptr() == out.data_ptr()


def test_the_operator_keeps_torchs_rules():
    from workbench.kernels.sparse_mlp import op

    packed = layer(40, 3, torch.bfloat16)
    x, active = torch.randn(4, 40), torch.rand(4, 3) < 0.5
    torch.library.opcheck(op.sparse_mlp, (x, active, packed.weights, packed.loop, True, False))
    for bad, says in (
        ((x, active[:, :2], packed.weights, packed.loop, True, False), "not those of 2 experts"),
        ((x, active, packed.weights, packed.loop, False, False), "not those of"),
        ((x, active, packed.weights, 99, True, False), "no loop number"),
        ((x.half(), active, packed.weights, packed.loop, True, False), "float32 or bfloat16"),
    ):
        with pytest.raises(ValueError, match=says):
            op.sparse_mlp(*bad)
