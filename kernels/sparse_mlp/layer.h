// A layer as callers have it: rows of floats or bfloat16 in, rows of floats out; which loop runs is a number.
#pragma once
#include "types.h"

namespace sparse_mlp {

enum class Loop : int { portable, avx2, avx512, avx512_bf16, amx, count };
constexpr const char* kLoops[] = {"portable", "avx2", "avx512", "avx512_bf16", "amx"};

bool runs(Loop loop, bool half);  // on this processor, with weights of this kind

// x [n, hidden]: floats, or bfloat16 where `x_half`.
struct Rows {
    const void* x;
    bool x_half;
    int64_t n;
};

void pack_experts(const Shape& s, const float* gate, const float* up, const float* down, unsigned char* to);
void pack_router(const Shape& s, const float* weights, unsigned char* to);

// y [n, hidden] by active [n, experts]; `united`: every row uses what any row uses.
void mlp(const Shape& s, const unsigned char* weights, const Rows& rows, const bool* active, bool united, float* y, Loop loop);
// active [n, experts]: where x @ weights + bias is above 0.
void decide(const Shape& s, const unsigned char* router, const float* bias, const Rows& rows, bool* active, Loop loop);

// Reads all of it once, for nothing but the time: bench.py's roofline and its way to empty the caches.
uint64_t read_all(const unsigned char* from, int64_t bytes);

}  // namespace sparse_mlp
