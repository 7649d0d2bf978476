// Addresses in: Python has checked what they point to (__init__.py). Packed weights come in pages of their own.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "body.h"
#include "layer.h"

namespace nb = nanobind;
using namespace sparse_mlp;

namespace {

template <class T>
using Matrix = nb::ndarray<const T, nb::shape<-1, -1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>;

constexpr size_t kHuge = 2u << 20;  // a random expert touches dozens of small pages: their misses cost up to a third

// Room on huge pages where the system gives them, small things on lines; reading ahead stays within.
Bytes room(int64_t wanted) {
    const size_t bytes = static_cast<size_t>(wanted), unit = bytes < kHuge ? size_t{kLine} : kHuge;
    const size_t all = (bytes + kAhead + unit - 1) / unit * unit;
    void* data = std::aligned_alloc(unit, all);
    if (!data) throw std::bad_alloc();
#if defined(__linux__)
    if (unit == kHuge) madvise(data, all, MADV_HUGEPAGE);
#endif
    std::memset(data, 0, all);
    return Bytes(data, {bytes}, nb::capsule(data, [](void* p) noexcept { std::free(p); }));
}

Bytes py_pack(const Matrix<float>& gate, const Matrix<float>& up, const Matrix<float>& down, bool half) {
    const int64_t rows = static_cast<int64_t>(gate.shape(0)), hidden = static_cast<int64_t>(gate.shape(1));
    for (const auto* other : {&up, &down})
        if (static_cast<int64_t>(other->shape(0)) != rows || static_cast<int64_t>(other->shape(1)) != hidden)
            throw std::invalid_argument("sparse_mlp: gate, up and down differ in shape");
    if (rows == 0 || rows % kNeurons || hidden == 0)
        throw std::invalid_argument("sparse_mlp: the inner width must be a multiple of 32");
    const Shape s{hidden, rows / kNeurons, half};
    Bytes made = room(s.expert_bytes() * s.experts);
    nb::gil_scoped_release free;
    pack_experts(s, gate.data(), up.data(), down.data(), made.data());
    return made;
}

Bytes py_pack_router(const Matrix<float>& weights, bool half) {
    const Shape s{static_cast<int64_t>(weights.shape(1)), static_cast<int64_t>(weights.shape(0)), half};
    Bytes made = room(router_bytes(s));
    pack_router(s, weights.data(), made.data());
    return made;
}

template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

}  // namespace

NB_MODULE(_sparse_mlp, m) {
    m.def("read_all", [](uintptr_t from, int64_t bytes) { return read_all(at<unsigned char>(from), bytes); });
    m.def("room", &room);
    m.def("pack", &py_pack);
    m.def("pack_router", &py_pack_router);
    m.def("loops", [](bool half) {
        std::vector<std::string> found;
        for (int i = 0; i < static_cast<int>(Loop::count); ++i)
            if (runs(static_cast<Loop>(i), half)) found.emplace_back(kLoops[i]);
        return found;
    });
    m.def("number", [](const std::string& name, bool half) {
        for (int i = 0; i < static_cast<int>(Loop::count); ++i)
            if (name == kLoops[i] && runs(static_cast<Loop>(i), half)) return i;
        return -1;
    });
    m.def("run", [](int64_t hidden, int64_t experts, bool half, uintptr_t weights, uintptr_t x, bool x_half, int64_t n,
                    uintptr_t active, bool united, uintptr_t y, int loop) {
        nb::gil_scoped_release free;
        mlp({hidden, experts, half}, at<unsigned char>(weights), {at<void>(x), x_half, n}, at<bool>(active), united,
            at<float>(y), static_cast<Loop>(loop));
    });
    m.def("route", [](int64_t hidden, int64_t experts, bool half, uintptr_t weights, uintptr_t bias, uintptr_t x,
                      bool x_half, int64_t n, uintptr_t active, int loop) {
        nb::gil_scoped_release free;
        decide({hidden, experts, half}, at<unsigned char>(weights), at<float>(bias), {at<void>(x), x_half, n},
               at<bool>(active), static_cast<Loop>(loop));
    });
    m.def("route_and_run", [](int64_t hidden, int64_t experts, bool half, uintptr_t router, uintptr_t bias,
                              uintptr_t weights, uintptr_t x, bool x_half, int64_t n, uintptr_t active, bool united,
                              uintptr_t y, int loop) {
        nb::gil_scoped_release free;
        const Shape s{hidden, experts, half};
        const Rows rows{at<void>(x), x_half, n};
        decide(s, at<unsigned char>(router), at<float>(bias), rows, at<bool>(active), static_cast<Loop>(loop));
        mlp(s, at<unsigned char>(weights), rows, at<bool>(active), united, at<float>(y), static_cast<Loop>(loop));
    });
}
