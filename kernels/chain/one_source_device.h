// What the words of one_source.h mean on each device.
#pragma once

#include "one_source_types.h"

#if defined(__CUDACC__) || defined(__HIPCC__)

#ifdef __HIPCC__
#include <hip/hip_runtime.h>
#define WARP_SYNC \
    __builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "wavefront"); \
    __builtin_amdgcn_wave_barrier()
#else
#define WARP_SYNC \
    if (threadIdx.x < kSub) __syncwarp()
#endif
#define CHAIN_VARIANT chain_gpu
#define KERNEL(name, ...) extern "C" __global__ void __launch_bounds__(256) chain_##name(__VA_ARGS__)
#define DEVICE static __device__ inline
#define SHARED __shared__
#define BLOCK int(blockIdx.x)
#define SYNC __syncthreads()
#define ONE if (threadIdx.x == 0)
#define FOR(t, count) for (int t = int(threadIdx.x); t < (count); t += int(blockDim.x))
// The body for every source i in [low, high) and target t in [first, stop of i): each target sees its sources in order.
#define SWEEP(i, low, high, t, first, stop, body) \
    for (int t = (first) + int(threadIdx.x); t < kTile; t += int(blockDim.x)) \
        for (int i = (low); i < (high); ++i) \
            if (t < (stop)) body;
#define WARP(t, first, stop, body) \
    if (threadIdx.x < kSub) \
        for (int t = (first) + int(threadIdx.x); t < (stop); t += kSub) body;

namespace CHAIN_VARIANT {
using chain::device::kSub, chain::device::kTile;
DEVICE void mark(int* at) { *at = 1; }
DEVICE int smaller(int a, int b) { return a < b ? a : b; }
DEVICE int atomic_add(int* at, int value) { return atomicAdd(at, value); }
DEVICE void atomic_add(unsigned long long* at, unsigned long long value) { atomicAdd(at, value); }
DEVICE void atomic_max(unsigned long long* at, unsigned long long value) { atomicMax(at, value); }
DEVICE unsigned long long fresh(unsigned long long* at) { return atomicAdd(at, 0ull); }
DEVICE void publish(int* at, int value) {  // after a barrier: what the block wrote is seen before the count is
    __threadfence();
    atomicAdd(at, value);
}
DEVICE void await(int* at, int value) {
    while (atomicAdd(at, 0) < value) {
    }
    __threadfence();
}
}  // namespace CHAIN_VARIANT

#else

#include <sched.h>

#define KERNEL(name, ...) void name([[maybe_unused]] int block_, __VA_ARGS__)
#define DEVICE static inline __attribute__((always_inline))
#define SHARED
#define BLOCK block_
#define SYNC ((void)0)
#define WARP_SYNC ((void)0)
#define ONE

#ifndef CHAIN_SHUFFLED
#define FOR(t, count) _Pragma("GCC ivdep") for (int t = 0, stop_ = (count); t < stop_; ++t)
#define SWEEP(i, low, high, t, first, stop, body) \
    for (int i = (low); i < (high); ++i) { \
        const int stop_ = (stop); \
        _Pragma("GCC ivdep") for (int t = (first); t < stop_; ++t) body; \
    }
#define WARP(t, first, stop, body) \
    { \
        const int stop_ = (stop); \
        _Pragma("GCC ivdep") for (int t = (first); t < stop_; ++t) body; \
    }
#else
// Bodies in another order: backwards (1) or scattered (2 and up, a seed). Where the order matters, results change.
namespace CHAIN_VARIANT {
inline int order = 1;
static inline int place(int k, int count) {
    if (order == 1) return count - 1 - k;
    unsigned step = unsigned(order) * 2654435761u % unsigned(count);
    const auto divisor = [](unsigned a, unsigned b) {
        while (b != 0) {
            const unsigned rest = a % b;
            a = b, b = rest;
        }
        return a;
    };
    while (step == 0 || divisor(step, unsigned(count)) != 1) ++step;
    return int((static_cast<unsigned long long>(k) * step + unsigned(order)) % unsigned(count));
}
}  // namespace CHAIN_VARIANT
#define FOR(t, count) \
    for (int k_ = 0, stop_ = (count); k_ < stop_; ++k_) \
        if (const int t = place(k_, stop_); true)
#define SWEEP(i, low, high, t, first, stop, body) \
    for (int k_ = 0; k_ < kTile - (first); ++k_) { \
        const int t = (first) + place(k_, kTile - (first)); \
        for (int i = (low); i < (high); ++i) \
            if (t < (stop)) body; \
    }
#define WARP(t, first, stop, body) \
    for (int k_ = 0, begin_ = (first), stop_ = (stop); k_ < stop_ - begin_; ++k_) { \
        const int t = begin_ + place(k_, stop_ - begin_); \
        body; \
    }
#endif

namespace CHAIN_VARIANT {
using chain::device::kSub, chain::device::kTile;
DEVICE void mark(int* at) { __atomic_store_n(at, 1, __ATOMIC_RELAXED); }
DEVICE int smaller(int a, int b) { return a < b ? a : b; }
DEVICE int atomic_add(int* at, int value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
DEVICE void atomic_add(unsigned long long* at, unsigned long long value) {
    __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
DEVICE void atomic_max(unsigned long long* at, unsigned long long value) {
    unsigned long long seen = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (seen < value && !__atomic_compare_exchange_n(at, &seen, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}
DEVICE unsigned long long fresh(unsigned long long* at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }
DEVICE void publish(int* at, int value) { __atomic_fetch_add(at, value, __ATOMIC_RELEASE); }
DEVICE void await(int* at, int value) {
    while (__atomic_load_n(at, __ATOMIC_ACQUIRE) < value) sched_yield();
}
}  // namespace CHAIN_VARIANT

#endif
