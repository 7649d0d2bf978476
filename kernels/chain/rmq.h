// The long join: chains anchors (those of first-pass chains) over gaps up to a wide band, with a range query per anchor.
#pragma once

#include "types.h"

namespace chain {

struct JoinParams {
    int32_t max_dist, inner_dist, bw;
    int32_t max_skip;  // kUnlimited: no limit
    int32_t size_cap;  // of a tree: the oldest anchors leave when there are more
    float gap, skip;
};

// score, previous and peak of each of n anchors sorted by x. `by_tree`: asks minimap2's tree for every anchor, not only
// where costs are equal; the answers are the same, which is what it is for.
void dp_rmq(const Anchor* a, int64_t n, const JoinParams& params, Scores out, bool by_tree = false);

}  // namespace chain
