// The two-ended claim word and the per-grain states of one prompt, in memory that threads and processes share.
//
// Layout (little endian, 64-byte header so that states start on their own cache line):
//   0   u64  magic and version            16  u32  number of grains
//   8   u64  claim word: front in the low, back in the high 32 bits; [front, back) is unclaimed
//   64  u8[] state of each grain
// Semantics are defined by reference.py; this file only makes every step one atomic operation.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace nb = nanobind;

namespace {

constexpr uint64_t kMagic = 0x31304D49414C43ULL;  // "CLAIM01"
constexpr size_t kHeader = 64;

uint64_t pack(uint32_t front, uint32_t back) { return uint64_t(back) << 32 | front; }
uint32_t front_of(uint64_t word) { return uint32_t(word); }
uint32_t back_of(uint64_t word) { return uint32_t(word >> 32); }

class ClaimTable {
  public:
    ClaimTable(nb::object buffer, uint32_t grains, bool create) : owner_(buffer) {
        if (PyObject_GetBuffer(buffer.ptr(), &view_, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS) != 0)
            throw nb::python_error();
        base_ = static_cast<uint8_t*>(view_.buf);
        const char* bad = nullptr;
        if (size_t(view_.len) < kHeader + grains)
            bad = "claim table: buffer is smaller than 64 bytes plus one byte per grain";
        else if (reinterpret_cast<uintptr_t>(base_) % 8 != 0)
            bad = "claim table: buffer must be aligned to 8 bytes";
        else if (create)
            format(grains);
        else if (header(0) != kMagic)
            bad = "claim table: buffer holds no claim table of this version";
        else if (count() != grains)
            bad = "claim table: number of grains differs from the one it was created with";
        if (bad) {
            PyBuffer_Release(&view_);
            throw std::invalid_argument(bad);
        }
    }
    ~ClaimTable() { release(); }
    ClaimTable(const ClaimTable&) = delete;
    ClaimTable& operator=(const ClaimTable&) = delete;

    void release() {  // after this the buffer's owner may close it
        if (base_ != nullptr) {
            base_ = nullptr;
            PyBuffer_Release(&view_);
            owner_ = nb::none();
        }
    }

    std::pair<uint32_t, uint32_t> claim_front(uint32_t want) {
        auto word = claim_word();
        for (uint64_t seen = word.load();;) {
            const uint32_t front = front_of(seen), back = back_of(seen);
            const uint32_t take = std::min(want, back - front);
            if (word.compare_exchange_weak(seen, pack(front + take, back))) return {front, take};
        }
    }

    std::pair<uint32_t, uint32_t> claim_back(uint32_t want, uint32_t floor) {
        auto word = claim_word();
        for (uint64_t seen = word.load();;) {
            const uint32_t front = front_of(seen), back = back_of(seen);
            const uint32_t low = std::max(front, floor);
            const uint32_t take = back > low ? std::min(want, back - low) : 0;
            if (word.compare_exchange_weak(seen, pack(front, back - take))) return {back - take, take};
        }
    }

    void stop() {  // nothing can be claimed any more; what was claimed keeps its owner
        auto word = claim_word();
        for (uint64_t seen = word.load();;)
            if (word.compare_exchange_weak(seen, pack(front_of(seen), front_of(seen)))) return;
    }

    bool swap_state(uint32_t grain, uint8_t expected, uint8_t desired) {
        return state(grain).compare_exchange_strong(expected, desired);
    }
    uint8_t get_state(uint32_t grain) { return state(grain).load(); }
    nb::bytes states() {
        live();
        return nb::bytes(reinterpret_cast<const char*>(base_ + kHeader), count());
    }
    uint32_t front() { return front_of(claim_word().load()); }
    uint32_t back() { return back_of(claim_word().load()); }
    uint32_t count() {
        live();
        uint32_t n;
        std::memcpy(&n, base_ + 16, sizeof n);
        return n;
    }

  private:
    void live() const {
        if (base_ == nullptr) throw std::runtime_error("claim table: used after release()");
    }
    uint64_t header(size_t at) const {
        uint64_t v;
        std::memcpy(&v, base_ + at, sizeof v);
        return v;
    }
    void format(uint32_t grains) {
        std::memset(base_, 0, kHeader + grains);
        std::memcpy(base_ + 16, &grains, sizeof grains);
        claim_word().store(pack(0, grains));
        std::atomic_ref<uint64_t>(*reinterpret_cast<uint64_t*>(base_)).store(kMagic);  // last: now it is valid
    }
    std::atomic_ref<uint64_t> claim_word() {
        live();
        return std::atomic_ref<uint64_t>(*reinterpret_cast<uint64_t*>(base_ + 8));
    }
    std::atomic_ref<uint8_t> state(uint32_t grain) {
        if (grain >= count()) throw std::out_of_range("claim table: no such grain");
        return std::atomic_ref<uint8_t>(base_[kHeader + grain]);
    }

    nb::object owner_;
    Py_buffer view_{};
    uint8_t* base_ = nullptr;
};

}  // namespace

NB_MODULE(_claim, m) {
    static_assert(std::atomic_ref<uint64_t>::is_always_lock_free, "claims across processes need lock-free words");
    m.attr("HEADER_BYTES") = kHeader;
    nb::class_<ClaimTable>(m, "ClaimTable")
        .def(nb::init<nb::object, uint32_t, bool>(), nb::arg("buffer"), nb::arg("grains"), nb::arg("create") = true)
        .def("claim_front", &ClaimTable::claim_front, nb::arg("want"))
        .def("claim_back", &ClaimTable::claim_back, nb::arg("want"), nb::arg("floor") = 0)
        .def("stop", &ClaimTable::stop)
        .def("swap_state", &ClaimTable::swap_state, nb::arg("grain"), nb::arg("expected"), nb::arg("desired"))
        .def("get_state", &ClaimTable::get_state, nb::arg("grain"))
        .def("states", &ClaimTable::states)
        .def("release", &ClaimTable::release)
        .def_prop_ro("front", &ClaimTable::front)
        .def_prop_ro("back", &ClaimTable::back)
        .def("__len__", &ClaimTable::count);
}
