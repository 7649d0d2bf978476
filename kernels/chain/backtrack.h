// From scores to chains: walk back from the best end, cut where the score fell too far, order by target.
#pragma once

#include <vector>

#include "types.h"

namespace chain {

struct Chains {
    std::vector<uint64_t> u;       // score<<32 | number of anchors, one of each chain
    std::vector<int64_t> members;  // indices of anchors, ascending within a chain, chains one after the other
};

// Chains in the order they are found, best end first.
Chains backtrack(const int32_t* score, const int64_t* previous, int64_t n, const Params& params);

// The same chains ordered by the target position of their first anchor, as minimap2 leaves them.
Chains compact(const Anchor* a, const Chains& found);

}  // namespace chain
