// A fixed-address arena: one private anonymous mapping, at the base it was captured at where that is free, else wherever
// the kernel puts it. Nothing is committed before it is touched.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

namespace replay {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kHuge = 2u << 20;

struct Range {
    uint64_t low, high;  // [low, high), addresses
};

class Arena {
  public:
    Arena(uint64_t base, uint64_t size) : size_(size) {
        if (size == 0 || size % kPage != 0 || size > (uint64_t(1) << 46))
            throw std::invalid_argument("arena: size must be a positive multiple of 4096 bytes, at most 64 TiB");
        if (base % kPage != 0) throw std::invalid_argument("arena: base must be a multiple of 4096");
        if (base != 0 && reserve(reinterpret_cast<void*>(base), MAP_FIXED_NOREPLACE) && address() == base) return;
        release();  // an old kernel takes the flag for a hint and maps elsewhere
        if (!reserve_aligned()) throw std::runtime_error("arena: cannot reserve memory: " + reason_);
        relocated_ = base != 0;
    }
    ~Arena() { release(); }
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    uint64_t address() const { return reinterpret_cast<uint64_t>(at_); }
    uint64_t size() const { return size_; }
    bool relocated() const { return relocated_; }
    uint8_t* data() const { return static_cast<uint8_t*>(at_); }

    // true when [start, start + length) lies inside; no sum can overflow
    bool holds(uint64_t start, uint64_t length) const {
        return start >= address() && start - address() <= size_ && length <= size_ - (start - address());
    }
    void freeze(uint64_t offset, uint64_t length) {  // nodes may read this part and not write it
        if (offset > size_ || length > size_ - offset) throw std::out_of_range("arena: freeze() is outside of it");
        frozen_.push_back({address() + offset, address() + offset + length});
    }
    bool writable(uint64_t start, uint64_t length) const {
        for (const Range& each : frozen_)
            if (start < each.high && each.low < start + length) return false;
        return true;
    }
    std::mutex& running() { return running_; }

  private:
    bool reserve(void* where, int flags) {
        void* got = mmap(where, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
        if (got == MAP_FAILED) {
            reason_ = std::strerror(errno);
            return false;
        }
        at_ = got;
        madvise(at_, size_, MADV_HUGEPAGE);  // weights are streamed once a step; refusal costs speed only
        return true;
    }
    // Kernels and BLAS may choose their loops by alignment: elsewhere is aligned like the fixed base.
    bool reserve_aligned() {
        const uint64_t wanted = size_;
        size_ = wanted + kHuge;
        const bool ok = reserve(nullptr, 0);
        size_ = wanted;
        if (!ok) return false;
        const uint64_t start = address(), aligned = (start + kHuge - 1) / kHuge * kHuge;
        if (aligned > start) munmap(at_, aligned - start);
        munmap(reinterpret_cast<void*>(aligned + wanted), start + kHuge - aligned);
        at_ = reinterpret_cast<void*>(aligned);
        return true;
    }
    void release() {
        if (at_ != nullptr) munmap(at_, size_);
        at_ = nullptr;
    }

    void* at_ = nullptr;
    uint64_t size_;
    bool relocated_ = false;
    std::string reason_;
    std::vector<Range> frozen_;
    std::mutex running_;
};

}  // namespace replay
