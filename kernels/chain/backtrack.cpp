#include "backtrack.h"

#include <algorithm>

#include "sort.h"

namespace chain {
namespace {

enum : uint8_t { kFree = 0, kTaken = 1, kWalked = 2 };

// Where the chain that ends in `last` should stop: walking back, the best gain seen so far, cut once the walk has lost
// more than max_drop from it. Returns the first anchor that is not in the chain (-1: the walk reached a beginning).
int64_t cut(const int32_t* score, const int64_t* previous, std::vector<uint8_t>& state, int64_t last, int32_t max_drop) {
    int64_t at = last, stop = -1, best_at = last;
    int32_t best = 0;
    do {
        state[at] = kWalked;
        stop = at = previous[at];
        const int32_t gain = at < 0 ? score[last] : score[last] - score[at];
        if (gain > best)
            best = gain, best_at = at;
        else if (best - gain > max_drop)
            break;
    } while (at >= 0 && state[at] == kFree);
    for (at = last; at >= 0 && at != stop; at = previous[at]) state[at] = kFree;
    return best_at;
}

}  // namespace

Chains backtrack(const int32_t* score, const int64_t* previous, int64_t n, const Params& params) {
    std::vector<Item> ends;
    for (int64_t i = 0; i < n; ++i)
        if (score[i] >= params.min_score) ends.push_back({uint64_t(int64_t(score[i])), uint64_t(i)});
    unstable_sort(ends.data(), int64_t(ends.size()), [](const Item& e) { return e.key; });

    const int32_t max_drop = params.cdna ? INT32_MAX : params.bw;
    Chains found;
    std::vector<uint8_t> state(n, kFree);
    for (auto end = ends.rbegin(); end != ends.rend(); ++end) {
        const int64_t last = int64_t(end->value);
        if (state[last] != kFree) continue;
        const int64_t stop = cut(score, previous, state, last, max_drop);
        const size_t before = found.members.size();
        int64_t i = last;
        for (; i != stop; i = previous[i]) found.members.push_back(i), state[i] = kTaken;
        const int32_t gain = i < 0 ? score[last] : score[last] - score[i];
        const size_t count = found.members.size() - before;
        if (gain >= params.min_score && count > 0 && int64_t(count) >= params.min_cnt) {
            std::reverse(found.members.begin() + int64_t(before), found.members.end());
            found.u.push_back(uint64_t(uint32_t(gain)) << 32 | count);
        } else {
            found.members.resize(before);  // too poor to be kept, but its anchors stay taken
        }
    }
    return found;
}

Chains compact(const Anchor* a, const Chains& found) {
    std::vector<Item> order;  // key: x of the first anchor; value: offset of the chain<<32 | its number
    for (size_t c = 0, at = 0; c < found.u.size(); ++c) {
        order.push_back({a[found.members[at]].x, uint64_t(at) << 32 | c});
        at += uint32_t(found.u[c]);
    }
    unstable_sort(order.data(), int64_t(order.size()), [](const Item& e) { return e.key; });
    Chains sorted;
    sorted.u.reserve(found.u.size());
    sorted.members.reserve(found.members.size());
    for (const Item& each : order) {
        const uint64_t u = found.u[uint32_t(each.value)];
        const auto first = found.members.begin() + int64_t(each.value >> 32);
        sorted.u.push_back(u);
        sorted.members.insert(sorted.members.end(), first, first + uint32_t(u));
    }
    return sorted;
}

}  // namespace chain
