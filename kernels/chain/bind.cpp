// numpy in, numpy out: each call checks what it is given, lets go of the interpreter lock and runs one stage.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <stdexcept>
#include <string>

#include "backtrack.h"
#include "check.h"
#include "one_source_run.h"
#include "rmq.h"
#include "sort.h"
#include "types.h"

namespace nb = nanobind;
using namespace chain;

namespace {

using Anchors = nb::ndarray<const uint64_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;
template <class T>
using Array = nb::ndarray<const T, nb::shape<-1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Made = nb::ndarray<nb::numpy, T, nb::c_contig>;

template <class T>
Made<T> own(T* data, size_t rows) {
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return Made<T>(data, {rows}, owner);
}
template <class T>
Made<T> copied(const std::vector<T>& from) {
    T* data = new T[from.size() + 1];
    std::copy(from.begin(), from.end(), data);
    return own(data, from.size());
}

const Anchor* view(const Anchors& a) { return reinterpret_cast<const Anchor*>(a.data()); }

struct Outputs {
    explicit Outputs(size_t n)
        : score(new int32_t[n + 1]), previous(new int64_t[n + 1]), peak(new int32_t[n + 1]), size(n) {}
    Scores scores() { return {score.get(), previous.get(), peak.get()}; }
    auto release() { return std::make_tuple(own(score.release(), size), own(previous.release(), size), own(peak.release(), size)); }
    std::unique_ptr<int32_t[]> score;
    std::unique_ptr<int64_t[]> previous;
    std::unique_ptr<int32_t[]> peak;
    size_t size;
};

auto py_dp(const Anchors& anchors, const Params& params, Backend backend) {
    check(params);
    if (!has(backend)) throw std::invalid_argument("chain: this processor cannot run that backend");
    if (backend != Backend::scalar) check_full(params);
    Outputs out(anchors.shape(0));
    {
        nb::gil_scoped_release free;
        check_anchors(view(anchors), int64_t(out.size));
        dp(backend, view(anchors), int64_t(out.size), params, out.scores());
    }
    return out.release();
}

const Kernels& kernels_of(const std::string& build) {
    if (build == "portable") return kernels_portable;
    if (build == "shuffled") return kernels_shuffled;
#ifdef CHAIN_X86
    if (build == "avx2" && has(Backend::avx2)) return kernels_avx2;
    if (build == "avx512" && has(Backend::avx512)) return kernels_avx512;
#endif
    throw std::invalid_argument("chain: this processor or this installation has no build of the kernels called " + build);
}

// Reads together, by a build of the kernels: a triple for each read, and what went which way.
auto py_one_source(const std::vector<Anchors>& reads, const Params& params, const std::string& build, int workers,
                   int micro_batch, int micro_batches, int short_anchors, int64_t long_pairs, int64_t split_pairs, int order,
                   int64_t dropped) {
    check(params);
    const Kernels& kernels = kernels_of(build);
    check_full(params);
    if (workers < 1 || micro_batch < 1 || micro_batch > 1 << 28 || micro_batches < 1 || short_anchors < 1 || order < 1)
        throw std::invalid_argument("chain: workers, batches, order and limits must be positive, a batch at most 2**28");
    std::vector<Outputs> outputs;
    std::vector<Read> work;
    for (const Anchors& each : reads) {
        if (each.shape(0) > 1 << 28) throw std::invalid_argument("chain: more than 2**28 anchors of one read");
        outputs.emplace_back(each.shape(0));
        work.push_back({view(each), int64_t(each.shape(0)), outputs.back().scores()});
    }
    Counts counts;
    {
        nb::gil_scoped_release free;
        for (const Read& each : work) check_anchors(each.anchors, each.n);
        set_order(order);
        counts = run_one_source(work, params, kernels, {micro_batch, micro_batches, short_anchors, long_pairs, split_pairs}, workers, dropped);
    }
    nb::list results;
    for (Outputs& each : outputs) results.append(each.release());
    nb::dict told;
    told["short"] = counts.short_ones, told["mid"] = counts.mid_ones, told["long"] = counts.long_ones;
    told["split"] = counts.split, told["tasks"] = counts.tasks, told["pools"] = counts.pools, told["redone"] = counts.redone, told["calls"] = counts.calls;
    return nb::make_tuple(results, told);
}

// Predecessors in the window of each anchor, and whether max_iter cut it.
auto py_windows(const Anchors& anchors, const Params& params) {
    const Params q = floored(check(params));
    const int64_t n = int64_t(anchors.shape(0));
    std::vector<int32_t> windows(n);
    std::vector<uint8_t> cut(n);
    {
        nb::gil_scoped_release free;
        const Anchor* a = view(anchors);
        check_anchors(a, n);
        for (int64_t i = 0, start = 0; i < n; ++i) {
            start = window_start(a, i, start, q.max_dist_x);
            cut[i] = i - start > q.max_iter;
            windows[i] = int32_t(cut[i] ? q.max_iter : i - start);
        }
    }
    return std::make_tuple(copied(windows), copied(cut));
}

auto py_rmq(const Anchors& anchors, const JoinParams& params) {
    check({params.max_dist, params.max_dist, params.bw, params.max_skip, 1, 1, 0, params.gap, params.skip, false, 1});
    if (params.inner_dist < 0 || params.size_cap < 1)
        throw std::invalid_argument("chain: inner_dist must not be negative, size_cap must be positive");
    Outputs out(anchors.shape(0));
    {
        nb::gil_scoped_release free;
        check_anchors(view(anchors), int64_t(out.size));
        dp_rmq(view(anchors), int64_t(out.size), params, out.scores());
    }
    return out.release();
}

auto py_backtrack(const Array<int32_t>& score, const Array<int64_t>& previous, const Params& params) {
    const int64_t n = int64_t(score.shape(0));
    if (int64_t(previous.shape(0)) != n) throw std::invalid_argument("chain: f and p differ in length");
    Chains found;
    {
        nb::gil_scoped_release free;
        for (int64_t i = 0; i < n; ++i)
            if (previous(i) >= i || previous(i) < -1) throw std::invalid_argument("chain: a predecessor must come before");
        found = backtrack(score.data(), previous.data(), n, params);
    }
    return std::make_tuple(copied(found.u), copied(found.members));
}

auto py_compact(const Anchors& anchors, const Array<uint64_t>& u, const Array<int64_t>& members) {
    Chains found{{u.data(), u.data() + u.shape(0)}, {members.data(), members.data() + members.shape(0)}}, sorted;
    {
        nb::gil_scoped_release free;
        uint64_t total = 0;
        for (uint64_t each : found.u) {
            if (uint32_t(each) == 0) throw std::invalid_argument("chain: a chain of no anchors");
            total += uint32_t(each);
        }
        if (total != found.members.size()) throw std::invalid_argument("chain: u and members do not fit together");
        for (int64_t i : found.members)
            if (i < 0 || i >= int64_t(anchors.shape(0))) throw std::invalid_argument("chain: no such anchor");
        sorted = compact(view(anchors), found);
    }
    return std::make_tuple(copied(sorted.u), copied(sorted.members));
}

// The order in which the unstable radix sort leaves items with these keys.
auto py_order(const Array<uint64_t>& keys) {
    std::vector<Item> items(keys.shape(0));
    std::vector<int64_t> order(items.size());
    {
        nb::gil_scoped_release free;
        for (size_t i = 0; i < items.size(); ++i) items[i] = {keys.data()[i], i};
        unstable_sort(items.data(), int64_t(items.size()), [](const Item& e) { return e.key; });
        for (size_t i = 0; i < items.size(); ++i) order[i] = int64_t(items[i].value);
    }
    return copied(order);
}

}  // namespace

NB_MODULE(_chain, m) {
    m.attr("UNLIMITED") = kUnlimited;
    nb::class_<Params>(m, "Params")
        .def("__init__", [](Params* p, int32_t max_dist_x, int32_t max_dist_y, int32_t bw, int32_t max_skip, int32_t max_iter,
                            int32_t min_cnt, int32_t min_score, float gap, float skip, bool cdna, int32_t n_seg) {
            new (p) Params{max_dist_x, max_dist_y, bw, max_skip, max_iter, min_cnt, min_score, gap, skip, cdna, n_seg};
        });
    nb::class_<JoinParams>(m, "JoinParams")
        .def("__init__", [](JoinParams* p, int32_t max_dist, int32_t inner_dist, int32_t bw, int32_t max_skip, int32_t size_cap,
                            float gap, float skip) {
            new (p) JoinParams{max_dist, inner_dist, bw, max_skip, size_cap, gap, skip};
        });
    nb::enum_<Backend>(m, "Backend")
        .value("scalar", Backend::scalar)
        .value("avx2", Backend::avx2)
        .value("avx512", Backend::avx512)
        .value("avx2_every_pair", Backend::avx2_every_pair)
        .value("avx512_every_pair", Backend::avx512_every_pair);
    m.def("has", &has);
    m.def("dp", &py_dp);
    m.def("one_source", &py_one_source);
    m.def("windows", &py_windows);
    m.def("dp_rmq", &py_rmq);
    m.def("backtrack", &py_backtrack);
    m.def("compact", &py_compact);
    m.def("order", &py_order);
}
