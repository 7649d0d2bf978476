// numpy in, numpy out: weights are packed into pages of their own (huge ones where the system gives them).
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "body.h"
#include "types.h"

namespace nb = nanobind;
using namespace sparse_mlp;

namespace {

template <class T>
using Matrix = nb::ndarray<const T, nb::shape<-1, -1>, nb::c_contig, nb::device::cpu>;

constexpr size_t kHuge = 2u << 20;  // a random expert touches dozens of small pages: their misses cost up to a third

struct Weights {
    Weights(int64_t hidden, int64_t experts, bool half) : shape{hidden, experts, half} {
        bytes = static_cast<size_t>(shape.expert_bytes() * experts);
        const size_t room = (bytes + kAhead + kHuge - 1) / kHuge * kHuge;  // reading ahead stays within
        data = static_cast<unsigned char*>(std::aligned_alloc(kHuge, room));
        if (!data) throw std::bad_alloc();
#if defined(__linux__)
        madvise(data, room, MADV_HUGEPAGE);
#endif
        std::memset(data, 0, room);
    }
    ~Weights() { std::free(data); }
    Weights(const Weights&) = delete;
    Shape shape;
    size_t bytes = 0;
    unsigned char* data = nullptr;
};

// gate, up [experts * 32, hidden] and down [experts * 32, hidden], a neuron a row, in the order of the experts.
void fill(Weights& w, const float* gate, const float* up, const float* down) {
    const Shape& s = w.shape;
    const int64_t hidden = s.hidden, per = s.half ? 2 : 1;
    for (int64_t e = 0; e < s.experts; ++e) {
        unsigned char* at = w.data + e * s.expert_bytes();
        const auto put = [&](float first, float second) {
            uint32_t bits;
            if (s.half) bits = to_bf16(first) | (to_bf16(second) << 16);
            else std::memcpy(&bits, &first, 4);
            std::memcpy(at, &bits, 4);
            at += 4;
        };
        const auto value = [&](const float* m, int64_t neuron, int64_t column) {
            return column < hidden ? m[(e * kNeurons + neuron) * hidden + column] : 0.0f;
        };
        for (int part = 0; part < 2; ++part)
            for (int64_t k = 0; k < s.steps(); ++k)
                for (const float* m : {gate, up})
                    for (int i = 0; i < kLanes; ++i) {
                        const int64_t n = part * kLanes + i;
                        put(value(m, n, k * per), s.half ? value(m, n, k * 2 + 1) : 0.0f);
                    }
        for (int64_t t = 0; t < s.tiles(); ++t)
            for (int64_t j = 0; j < s.lines_down(); ++j)
                for (int i = 0; i < kLanes; ++i) {
                    const int64_t c = t * kLanes + i;
                    put(value(down, j * per, c), s.half ? value(down, j * 2 + 1, c) : 0.0f);
                }
    }
}

using Loop = void (*)(const Call&);

Loop loop_of(const std::string& name) {
    if (name == "portable") return run_portable;
#ifdef SPARSE_MLP_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (name == "avx2" && avx2) return run_avx2;
    if (name == "avx512" && avx512) return run_avx512;
    if (name == "avx512_bf16" && avx512 && __builtin_cpu_supports("avx512bf16")) return run_avx512_bf16;
#endif
    return nullptr;
}

std::vector<std::string> loops() {
    std::vector<std::string> found;
    for (const char* name : {"portable", "avx2", "avx512", "avx512_bf16"})
        if (loop_of(name)) found.emplace_back(name);
    return found;
}

auto py_run(const Weights& w, const Matrix<float>& x, const Matrix<bool>& active, const std::string& name) {
    const Shape& s = w.shape;
    const int64_t n = static_cast<int64_t>(x.shape(0));
    if (static_cast<int64_t>(x.shape(1)) != s.hidden) throw std::invalid_argument("sparse_mlp: x has another width");
    if (static_cast<int64_t>(active.shape(0)) != n || static_cast<int64_t>(active.shape(1)) != s.experts)
        throw std::invalid_argument("sparse_mlp: active is not [rows, experts]");
    const Loop loop = loop_of(name);
    if (!loop) throw std::invalid_argument("sparse_mlp: this processor cannot run " + name);
    if (name == "avx512_bf16" && !s.half) throw std::invalid_argument("sparse_mlp: avx512_bf16 is for bfloat16 weights");
    float* y = new float[n * s.hidden + 1];
    nb::capsule owner(y, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    {
        nb::gil_scoped_release free;
        std::vector<uint32_t> in(n * s.steps(), 0);
        std::vector<float> out(n * s.padded(), 0.0f);
        for (int64_t r = 0; r < n; ++r) {
            const float* row = x.data() + r * s.hidden;
            uint32_t* to = in.data() + r * s.steps();
            if (!s.half) std::memcpy(to, row, s.hidden * 4);
            else
                for (int64_t k = 0; 2 * k < s.hidden; ++k)
                    to[k] = to_bf16(row[2 * k]) | (2 * k + 1 < s.hidden ? to_bf16(row[2 * k + 1]) << 16 : 0u);
        }
        loop({s, w.data, in.data(), out.data(), active.data(), n});
        for (int64_t r = 0; r < n; ++r) std::memcpy(y + r * s.hidden, out.data() + r * s.padded(), s.hidden * 4);
    }
    return nb::ndarray<nb::numpy, float>(y, {static_cast<size_t>(n), static_cast<size_t>(s.hidden)}, owner);
}

}  // namespace

NB_MODULE(_sparse_mlp, m) {
    nb::class_<Weights>(m, "Weights")
        .def_prop_ro("nbytes", [](const Weights& w) { return w.bytes; })
        .def_prop_ro("experts", [](const Weights& w) { return w.shape.experts; })
        .def_prop_ro("hidden", [](const Weights& w) { return w.shape.hidden; })
        .def_prop_ro("half", [](const Weights& w) { return w.shape.half; });
    m.def("pack", [](const Matrix<float>& gate, const Matrix<float>& up, const Matrix<float>& down, bool half) {
        const int64_t rows = static_cast<int64_t>(gate.shape(0)), hidden = static_cast<int64_t>(gate.shape(1));
        for (const auto* other : {&up, &down})
            if (static_cast<int64_t>(other->shape(0)) != rows || static_cast<int64_t>(other->shape(1)) != hidden)
                throw std::invalid_argument("sparse_mlp: gate, up and down differ in shape");
        if (rows == 0 || rows % kNeurons || hidden == 0)
            throw std::invalid_argument("sparse_mlp: the inner width must be a multiple of 32");
        auto* made = new Weights(hidden, rows / kNeurons, half);
        nb::gil_scoped_release free;
        fill(*made, gate.data(), up.data(), down.data());
        return made;
    }, nb::rv_policy::take_ownership);
    m.def("run", &py_run);
    m.def("loops", &loops);
}
