// What is refused before any loop sees it.
#pragma once

#include <stdexcept>

#include "types.h"

namespace chain {

// What the loops rely on: order, positions that leave room for sums, indices of 31 bits.
inline void check_anchors(const Anchor* a, int64_t n) {
    if (n > INT32_MAX - 64) throw std::invalid_argument("chain: more than 2**31 anchors of one read");
    for (int64_t i = 0; i < n; ++i) {
        if (i > 0 && a[i].x < a[i - 1].x) throw std::invalid_argument("chain: anchors are not sorted by x");
        if (uint32_t(a[i].x) > uint32_t(INT32_MAX)) throw std::invalid_argument("chain: a position of the reference is 2**31 or more");
        if (uint32_t(a[i].y) > uint32_t(INT32_MAX) / 2) throw std::invalid_argument("chain: a position of the read is 2**30 or more");
    }
}

inline const Params& check(const Params& q) {
    const auto within = [](int64_t v, int64_t low, int64_t high) { return v >= low && v <= high; };
    if (!within(q.max_dist_x, 1, kFarthest) || !within(q.max_dist_y, 1, kFarthest) || !within(q.bw, 0, kFarthest))
        throw std::invalid_argument("chain: distances must lie between 1 and 2**24, the band between 0 and 2**24");
    if (q.max_iter < 1 || q.max_skip < 0 || q.n_seg < 1)
        throw std::invalid_argument("chain: max_iter and n_seg must be positive, max_skip not negative");
    if (!(q.gap >= 0.0f && q.gap <= 32.0f && q.skip >= 0.0f && q.skip <= 32.0f))
        throw std::invalid_argument("chain: penalties of a base must lie between 0 and 32");
    return q;
}

// What the vector loops and the GPU kernels do.
inline void check_full(const Params& q) {
    if (!simple(q) || q.max_skip != kUnlimited)
        throw std::invalid_argument("chain: that backend does one read, no introns, no skip penalty and no limit on skips");
}

}  // namespace chain
