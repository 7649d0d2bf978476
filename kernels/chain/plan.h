// Which kernel scores which segment, and in what order: the same for every device.
#pragma once

#include <cstdint>
#include <vector>

#include "one_source_types.h"

namespace chain {

struct Limits {  // the figures that decide; tests make them small so that little data takes every way
    int micro_batch = 1 << 20;          // anchors of a micro-batch; a read is never cut, so one may hold more
    int micro_batches = 4;              // that share a pool
    int short_anchors = 256;            // a segment of one tile at most is short
    int64_t long_pairs = 1 << 18;       // from here on it goes to the pool
    int64_t split_pairs = int64_t(1) << 22;  // from here on it is split into tasks
};

struct Cut {  // a segment of a micro-batch
    int begin, end;
    int64_t pairs;
};

struct Classes {
    std::vector<device::Segment> short_ones, mid_ones;
    std::vector<Cut> long_ones;
};

// Short ones in order, mid ones by pairs, the most first.
Classes classify(std::vector<Cut> cuts, const Limits& limits);

// Whether several blocks share it.
inline bool is_split(const Cut& s, const Limits& limits) {
    return s.pairs >= limits.split_pairs && s.end - s.begin > device::kTile;
}

// Tasks of the long kernel over segments of the pool: split segments first, a step of each in turn, then whole ones,
// the most pairs first. `last` is the pool's, needed of split segments only. A task awaits only tasks before it.
std::vector<device::Task> schedule(std::vector<Cut> pooled, const int* last, const Limits& limits);

}  // namespace chain
