// Python's view of the seed kernel. Every call lets go of the interpreter lock while it works.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <memory>
#include <stdexcept>
#include <string>

#include "anchors.h"
#include "regions.h"

namespace nb = nanobind;
using namespace seed;

namespace {

template <class T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using InPairs = nb::ndarray<const uint64_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;

template <class T>
nb::object give(std::vector<T>&& values, size_t columns = 0) {  // the array owns the vector
    static_assert(std::is_arithmetic_v<T>);
    auto* kept = new std::vector<T>(std::move(values));
    nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    if (columns == 0) return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<1>>(kept->data(), {kept->size()}, owner));
    return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<2>>(kept->data(), {kept->size() / columns, columns}, owner));
}

nb::object give(std::vector<Pair>&& pairs) {
    auto* kept = new std::vector<Pair>(std::move(pairs));
    nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<Pair>*>(p); });
    auto* data = reinterpret_cast<uint64_t*>(kept->data());
    return nb::cast(nb::ndarray<nb::numpy, uint64_t, nb::ndim<2>>(data, {kept->size(), 2}, owner));
}

nb::tuple give(Arrays&& a) {
    return nb::make_tuple(give(std::move(a.bucket)), give(std::move(a.keys)), give(std::move(a.start)),
                          give(std::move(a.places)));
}

int32_t length_of(const nb::bytes& sequence) {
    if (sequence.size() > INT32_MAX) throw std::length_error("sequence of more than 2,147,483,647 bases");
    return int32_t(sequence.size());
}

const uint8_t* bases_of(const nb::bytes& sequence) { return reinterpret_cast<const uint8_t*>(sequence.c_str()); }

void check(int k, int w) {
    if (k < 1 || k > kMaxK || w < 1 || w > 255) throw std::invalid_argument("k must be 1 to 28 and w 1 to 255");
}

nb::object py_sketch(nb::bytes sequence, int k, int w, bool hpc, uint32_t number) {
    check(k, w);
    const int32_t n = length_of(sequence);
    std::vector<Pair> out;
    {
        nb::gil_scoped_release free;
        sketch(bases_of(sequence), n, k, w, hpc, number, [&](const Pair& m) { out.push_back(m); });
    }
    return give(std::move(out));
}

class Builder {
  public:
    Builder(int k, int w, bool hpc) : k_(k), w_(w), hpc_(hpc) { check(k, w); }
    void add(nb::bytes sequence) {
        const int32_t n = length_of(sequence);
        if (count_ >= (uint32_t(1) << 31) - 1) throw std::length_error("more than 2,147,483,647 sequences");
        nb::gil_scoped_release free;
        sketch(bases_of(sequence), n, k_, w_, hpc_, count_++,
               [&](const Pair& m) { pairs_.push_back({m.x >> 8, m.y}); });
    }
    nb::tuple arrays() {  // ends the builder
        Arrays out;
        {
            nb::gil_scoped_release free;
            out = arrange(std::move(pairs_), k_);
        }
        return give(std::move(out));
    }

  private:
    int k_, w_;
    bool hpc_;
    uint32_t count_ = 0;
    std::vector<Pair> pairs_;
};

nb::tuple py_arrange(In<uint64_t> hashes, In<uint64_t> places, int k) {
    if (hashes.size() != places.size()) throw std::invalid_argument("as many hashes as places");
    check(k, 1);
    Arrays out;
    {
        nb::gil_scoped_release free;
        std::vector<Pair> pairs(hashes.size());
        for (size_t i = 0; i < pairs.size(); ++i) pairs[i] = {hashes.data()[i], places.data()[i]};
        out = arrange(std::move(pairs), k);
    }
    return give(std::move(out));
}

class Index {
  public:
    Index(In<uint32_t> bucket, In<uint64_t> keys, In<uint32_t> start, In<uint64_t> places, In<int32_t> lengths, int k,
          int w, bool hpc)
        : bucket_(bucket), keys_(keys), start_(start), places_(places), lengths_(lengths),
          view_{bucket.data(), keys.data(),   start.data(),   places.data(), bucket.size() ? bucket.size() - 1 : 0,
                keys.size(),   places.size(), lengths.data(), lengths.size(), k, w, hpc} {
        if (start.size() != keys.size() + 1) throw std::invalid_argument("seed index: keys and starts do not fit");
        const char* bad;
        {
            nb::gil_scoped_release free;
            bad = view_.flaw();
        }
        if (bad) throw std::invalid_argument(std::string("seed index: ") + bad);
    }

    nb::tuple seeds(nb::bytes read, int32_t mid_occ, int32_t max_max_occ, int32_t occ_dist, float q_occ_frac) const {
        const int32_t n = length_of(read);
        Seeds out;
        {
            nb::gil_scoped_release free;
            out = find_seeds(view_, bases_of(read), n, {mid_occ, max_max_occ, occ_dist, q_occ_frac});
        }
        return nb::make_tuple(give(std::move(out.anchors)), give(std::move(out.used)), out.repetitive, out.minimizers);
    }

    nb::object find(uint64_t hash) const {
        const Places at = view_.find(hash);
        return give(std::vector<uint64_t>(at.first, at.first + at.n));
    }

  private:
    In<uint32_t> bucket_;
    In<uint64_t> keys_;
    In<uint32_t> start_;
    In<uint64_t> places_;
    In<int32_t> lengths_;
    IndexView view_;
};

nb::tuple py_regions(InPairs anchors, In<uint64_t> chains, In<uint64_t> used, nb::bytes name, int32_t read_length,
                     int32_t repetitive, In<int32_t> lengths, uint32_t tie_seed, float mask_level, float pri_ratio,
                     int32_t best_n, int32_t min_diff, int32_t min_strand_score, int32_t min_chain_score) {
    constexpr size_t kColumns = 15;
    if (used.size() > INT32_MAX || read_length < 0) throw std::invalid_argument("regions: no read is that long");
    std::vector<int32_t> table;
    std::vector<float> divergence;
    const char* bad;
    {
        nb::gil_scoped_release free;
        const auto* a = reinterpret_cast<const Pair*>(anchors.data());
        bad = flaw(a, anchors.shape(0), chains.data(), chains.size(), read_length, lengths.data(), lengths.size());
        if (!bad) {
            const Read read{name.c_str(), name.size(), read_length, repetitive, used.data(), int32_t(used.size())};
            const RegionOptions opt{mask_level, pri_ratio, best_n, min_diff, min_strand_score, min_chain_score};
            for (const Hit& h : regions(a, chains.data(), chains.size(), read, lengths.data(), tie_seed, opt)) {
                const int32_t row[kColumns] = {h.sequence, h.reverse, h.query_start, h.query_end, h.start,
                                               h.end,      h.score,   h.count,       h.first,     h.matches,
                                               h.block,    h.mapq,    h.second,      h.rivals,    h.parent == h.id};
                table.insert(table.end(), row, row + kColumns);
                divergence.push_back(h.divergence);
            }
        }
    }
    if (bad) throw std::invalid_argument(std::string("regions: ") + bad);
    return nb::make_tuple(give(std::move(table), kColumns), give(std::move(divergence)));
}

}  // namespace

NB_MODULE(_seed, m) {
    m.def("sketch", &py_sketch, nb::arg("sequence"), nb::arg("k"), nb::arg("w"), nb::arg("hpc") = false,
          nb::arg("number") = 0);
    m.def("arrange", &py_arrange, nb::arg("hashes"), nb::arg("places"), nb::arg("k"));
    m.def("regions", &py_regions, nb::arg("anchors"), nb::arg("chains"), nb::arg("used"), nb::arg("name"),
          nb::arg("read_length"), nb::arg("repetitive"), nb::arg("lengths"), nb::arg("tie_seed") = 11,
          nb::arg("mask_level") = 0.5f, nb::arg("pri_ratio") = 0.8f, nb::arg("best_n") = 5, nb::arg("min_diff") = 30,
          nb::arg("min_strand_score") = 4000, nb::arg("min_chain_score") = 40);
    nb::class_<Builder>(m, "Builder")
        .def(nb::init<int, int, bool>(), nb::arg("k"), nb::arg("w"), nb::arg("hpc") = false)
        .def("add", &Builder::add, nb::arg("sequence"))
        .def("arrays", &Builder::arrays);
    nb::class_<Index>(m, "Index")
        .def(nb::init<In<uint32_t>, In<uint64_t>, In<uint32_t>, In<uint64_t>, In<int32_t>, int, int, bool>(),
             nb::arg("bucket"), nb::arg("keys"), nb::arg("start"), nb::arg("places"), nb::arg("lengths"), nb::arg("k"),
             nb::arg("w"), nb::arg("hpc") = false)
        .def("seeds", &Index::seeds, nb::arg("read"), nb::arg("mid_occ"), nb::arg("max_max_occ") = 4095,
             nb::arg("occ_dist") = 500, nb::arg("q_occ_frac") = 0.01f)
        .def("find", &Index::find, nb::arg("hash"));
}
