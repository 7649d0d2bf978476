// What sketching, seeding and hits are made of: two 64-bit words, ordered by the first.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../chain/sort.h"

namespace seed {

struct Pair {
    uint64_t x, y;
};

// In the order that chaining expects: sorted by x, equal ones as minimap2's unstable radix sort leaves them.
inline void radix_sort(Pair* pairs, size_t n) {
    chain::unstable_sort(pairs, int64_t(n), [](const Pair& p) { return p.x; });
}

}  // namespace seed
