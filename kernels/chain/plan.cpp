#include "plan.h"

#include <algorithm>

namespace chain {
namespace {

using device::kTile, device::Task;

bool more_pairs(const Cut& a, const Cut& b) { return a.pairs != b.pairs ? a.pairs > b.pairs : a.begin < b.begin; }

// For each tile of a segment: the tile's own task, then the pulls of later tiles from it, the nearest first.
std::vector<std::vector<Task>> split(const Cut& s, const int* last) {
    std::vector<std::vector<Task>> steps;
    std::vector<int> waits((s.end - s.begin + kTile - 1) / kTile, 0);
    for (int from = s.begin; from < s.end; from += kTile) {
        const int reach = last[std::min(from + kTile, s.end) - 1];
        std::vector<Task> step = {{s.begin, s.end, from, from, 0}};
        for (int tile = from + kTile; tile < s.end && tile <= reach; tile += kTile) {
            step.push_back({s.begin, s.end, from, tile, 0});
            ++waits[(tile - s.begin) / kTile];
        }
        steps.push_back(std::move(step));
    }
    for (size_t k = 0; k < steps.size(); ++k) steps[k][0].waits = waits[k];
    return steps;
}

}  // namespace

Classes classify(std::vector<Cut> cuts, const Limits& limits) {
    Classes found;
    const auto is_long = [&](const Cut& s) { return s.pairs >= limits.long_pairs; };
    for (const Cut& s : cuts)
        if (!is_long(s) && s.end - s.begin <= limits.short_anchors) found.short_ones.push_back({s.begin, s.end, s.begin});
    std::sort(cuts.begin(), cuts.end(), more_pairs);
    for (const Cut& s : cuts) {
        if (is_long(s))
            found.long_ones.push_back(s);
        else if (s.end - s.begin > limits.short_anchors)
            found.mid_ones.push_back({s.begin, s.end, s.begin});
    }
    return found;
}

std::vector<Task> schedule(std::vector<Cut> pooled, const int* last, const Limits& limits) {
    std::sort(pooled.begin(), pooled.end(), more_pairs);
    std::vector<std::vector<std::vector<Task>>> giants;
    std::vector<Task> tasks, whole;
    for (const Cut& s : pooled) {
        if (is_split(s, limits))
            giants.push_back(split(s, last));
        else
            whole.push_back({s.begin, s.end, -1, 0, 0});
    }
    size_t most = 0;
    for (const auto& steps : giants) most = std::max(most, steps.size());
    for (size_t k = 0; k < most; ++k)
        for (const auto& steps : giants)
            if (k < steps.size()) tasks.insert(tasks.end(), steps[k].begin(), steps[k].end());
    tasks.insert(tasks.end(), whole.begin(), whole.end());
    return tasks;
}

}  // namespace chain
