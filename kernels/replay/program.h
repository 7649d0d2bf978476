// Templates and parameter sets, checked before anything runs, and the loop that replays one without Python.
//
// A node's parameters are 8-byte slots, as reference.py lays them out:
//   kernel  the arguments of a C function in order: addresses and int64
//   gemm    transa transb m n k alpha A lda B ldb beta C ldc count strideA strideB strideC     (column-major, as sgemm_)
//   copy    destination source bytes
//   fill    destination byte bytes
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arena.h"

namespace replay {

enum Kind : uint32_t { kKernel = 0, kGemm = 1, kCopy = 2, kFill = 3, kKinds = 4 };
enum Access : uint32_t { kRead = 1, kWrite = 2 };
enum Gemm : uint32_t { kTransA, kTransB, kM, kN, kK, kAlpha, kA, kLda, kB, kLdb, kBeta, kC, kLdc, kCount, kStrideA,
                       kStrideB, kStrideC, kGemmSlots };

constexpr uint32_t kMaxArguments = 64;
constexpr uint64_t kMaxNodes = 1 << 20;

struct Node {
    uint32_t kind, first, slots;  // its slots are [first, first + slots)
    uint64_t function;            // address of the C function; 0 for copy and fill
};

struct Pointer {
    uint32_t slot, access;
};

using SgemmFn = void (*)(const char*, const char*, const int*, const int*, const int*, const float*, const float*,
                         const int*, const float*, const int*, const float*, float*, const int*);

template <size_t... I>
void call_with(uint64_t function, const uint64_t* a, std::index_sequence<I...>) {
    reinterpret_cast<void (*)(decltype(static_cast<void>(I), uint64_t{})...)>(function)(a[I]...);
}
template <size_t N>
void call(uint64_t function, const uint64_t* a) {
    call_with(function, a, std::make_index_sequence<N>{});
}
template <size_t... N>
constexpr auto calls(std::index_sequence<N...>) {
    return std::array<void (*)(uint64_t, const uint64_t*), sizeof...(N)>{&call<N>...};
}
inline constexpr auto kCalls = calls(std::make_index_sequence<kMaxArguments + 1>{});

inline void run_gemm(uint64_t function, const uint64_t* s) {
    const char ta = char(s[kTransA]), tb = char(s[kTransB]);
    const int m = int(s[kM]), n = int(s[kN]), k = int(s[kK]), lda = int(s[kLda]), ldb = int(s[kLdb]), ldc = int(s[kLdc]);
    const float alpha = std::bit_cast<float>(uint32_t(s[kAlpha])), beta = std::bit_cast<float>(uint32_t(s[kBeta]));
    const auto sgemm = reinterpret_cast<SgemmFn>(function);
    const auto *a = reinterpret_cast<const float*>(s[kA]), *b = reinterpret_cast<const float*>(s[kB]);
    auto* c = reinterpret_cast<float*>(s[kC]);
    for (uint64_t i = 0; i < s[kCount]; ++i)
        sgemm(&ta, &tb, &m, &n, &k, &alpha, a + i * s[kStrideA], &lda, b + i * s[kStrideB], &ldb, &beta,
              c + i * s[kStrideC], &ldc);
}

inline void run_node(const Node& node, const uint64_t* s) {
    switch (node.kind) {
        case kKernel: kCalls[node.slots](node.function, s); break;
        case kGemm: run_gemm(node.function, s); break;
        case kCopy: std::memcpy(reinterpret_cast<void*>(s[0]), reinterpret_cast<const void*>(s[1]), s[2]); break;
        default: std::memset(reinterpret_cast<void*>(s[0]), int(s[1]), s[2]);
    }
}

class Program {
  public:
    Program(std::shared_ptr<Arena> arena, std::vector<Node> nodes, std::vector<Pointer> pointers)
        : arena_(std::move(arena)), nodes_(std::move(nodes)), pointers_(std::move(pointers)) {
        if (nodes_.empty() || nodes_.size() > kMaxNodes) throw std::invalid_argument("program: 1 to 2^20 nodes, please");
        for (size_t i = 0; i < nodes_.size(); ++i) check_node(i);
        check_pointers();
    }

    // Checks a parameter set against the arena and keeps it; returns its index.
    size_t add(const uint64_t* slots, size_t count, const uint64_t* extents, size_t many) {
        if (count != slots_ || many != pointers_.size())
            throw std::invalid_argument("program: a parameter set has " + std::to_string(slots_) + " slots and " +
                                        std::to_string(pointers_.size()) + " extents");
        for (size_t i = 0; i < many; ++i) check_range(pointers_[i], slots[pointers_[i].slot], extents[i]);
        size_t next = 0;
        for (size_t i = 0; i < nodes_.size(); ++i) {
            const Node& node = nodes_[i];
            const uint64_t* own = extents + next;
            while (next < many && pointers_[next].slot < node.first + node.slots) ++next;
            if (node.kind == kGemm) check_gemm(i, slots + node.first, own);
            if (node.kind == kCopy && (slots[node.first + 2] > own[0] || slots[node.first + 2] > own[1]))
                fail(i, "copies more bytes than its operands have");
            if (node.kind == kFill && slots[node.first + 2] > own[0]) fail(i, "fills more bytes than its operand has");
        }
        sets_.emplace_back(slots, slots + count);
        return sets_.size() - 1;
    }

    // Runs every node in order. A C++ exception of a kernel becomes one here, with the node that threw it.
    void replay(size_t index) {
        const auto& set = sets_.at(index);
        const std::unique_lock<std::mutex> alone(arena_->running(), std::try_to_lock);
        if (!alone.owns_lock()) throw std::runtime_error("replay: another thread is replaying in this arena");
        size_t i = 0;
        try {
            for (; i < nodes_.size(); ++i) run_node(nodes_[i], set.data() + nodes_[i].first);
        } catch (const std::exception& error) {
            fail(i, error.what());
        } catch (...) {
            fail(i, "the kernel threw something that is no std::exception");
        }
    }

    size_t nodes() const { return nodes_.size(); }
    size_t sets() const { return sets_.size(); }
    uint64_t slots() const { return slots_; }

  private:
    [[noreturn]] static void fail(size_t node, const std::string& why) {
        throw std::runtime_error("node " + std::to_string(node) + ": " + why);
    }
    void check_node(size_t i) {
        static constexpr uint32_t fixed[] = {0, kGemmSlots, 3, 3};
        const Node& node = nodes_[i];
        if (node.kind >= kKinds) fail(i, "unknown kind");
        if (node.kind == kKernel ? node.slots > kMaxArguments : node.slots != fixed[node.kind])
            fail(i, "wrong number of arguments for its kind");
        if (node.first != slots_) fail(i, "its parameters do not follow those of the node before");
        if ((node.function != 0) != (node.kind == kKernel || node.kind == kGemm)) fail(i, "function missing or too many");
        slots_ += node.slots;
    }
    void check_pointers() {
        uint64_t last = std::numeric_limits<uint64_t>::max();
        for (const Pointer& each : pointers_) {
            if (each.slot >= slots_ || (last != std::numeric_limits<uint64_t>::max() && each.slot <= last))
                throw std::invalid_argument("program: pointer slots must rise and lie inside the parameters");
            if (each.access < kRead || each.access > (kRead | kWrite))
                throw std::invalid_argument("program: a pointer is read, written or both");
            last = each.slot;
        }
        for (size_t i = 0; i < nodes_.size(); ++i) check_operands(i);
    }
    // gemm, copy and fill: which slots are addresses is not up to the archive
    void check_operands(size_t i) {
        const Node& node = nodes_[i];
        std::vector<std::pair<uint32_t, uint32_t>> want, have;
        if (node.kind == kKernel) return;
        if (node.kind == kGemm) want = {{kA, kRead}, {kB, kRead}, {kC, kWrite}};
        if (node.kind == kCopy) want = {{0, kWrite}, {1, kRead}};
        if (node.kind == kFill) want = {{0, kWrite}};
        for (const Pointer& each : pointers_)
            if (each.slot >= node.first && each.slot < node.first + node.slots)
                have.emplace_back(each.slot - node.first, each.access);
        bool same = want.size() == have.size();
        for (size_t j = 0; same && j < want.size(); ++j)
            same = want[j].first == have[j].first && (want[j].second & have[j].second) == want[j].second;
        if (!same) fail(i, "its operands are not marked as addresses");
    }
    void check_range(const Pointer& pointer, uint64_t start, uint64_t length) const {
        if (!arena_->holds(start, length))
            throw std::out_of_range("slot " + std::to_string(pointer.slot) + ": address and extent leave the arena");
        if ((pointer.access & kWrite) && !arena_->writable(start, length))
            throw std::out_of_range("slot " + std::to_string(pointer.slot) + ": would write where weights lie");
    }
    static void check_gemm(size_t i, const uint64_t* s, const uint64_t* extents) {
        constexpr uint64_t most = 1u << 30;
        for (uint32_t which : {kTransA, kTransB})
            if (s[which] != 'n' && s[which] != 't') fail(i, "gemm: a transposition is n or t");
        for (uint32_t which : {kM, kN, kK, kLda, kLdb, kLdc, kCount})
            if (s[which] < 1 || s[which] > most) fail(i, "gemm: sizes are 1 to 2^30");
        for (uint32_t which : {kStrideA, kStrideB, kStrideC})
            if (s[which] > most) fail(i, "gemm: strides are at most 2^30");
        const bool ta = s[kTransA] == 't', tb = s[kTransB] == 't';
        check_matrix(i, ta ? s[kK] : s[kM], ta ? s[kM] : s[kK], s[kLda], s[kCount], s[kStrideA], extents[0]);
        check_matrix(i, tb ? s[kN] : s[kK], tb ? s[kK] : s[kN], s[kLdb], s[kCount], s[kStrideB], extents[1]);
        check_matrix(i, s[kM], s[kN], s[kLdc], s[kCount], s[kStrideC], extents[2]);
    }
    // rows x columns, column-major with leading dimension `ld`, `count` of them `stride` apart; all below 2^30
    static void check_matrix(size_t i, uint64_t rows, uint64_t columns, uint64_t ld, uint64_t count, uint64_t stride,
                             uint64_t bytes) {
        if (ld < rows) fail(i, "gemm: a leading dimension is less than the rows");
        const uint64_t floats = (columns - 1) * ld + rows, ahead = (count - 1) * stride;
        if (floats + ahead > bytes / sizeof(float)) fail(i, "gemm: an operand is larger than its extent");
    }

    std::shared_ptr<Arena> arena_;
    std::vector<Node> nodes_;
    std::vector<Pointer> pointers_;
    std::vector<std::vector<uint64_t>> sets_;
    uint64_t slots_ = 0;
};

}  // namespace replay
