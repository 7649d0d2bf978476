// The host side of one_source.h on a CPU.
#pragma once

#include <vector>

#include "one_source_cpu.h"
#include "plan.h"
#include "types.h"

namespace chain {

struct Read {
    const Anchor* anchors;
    int64_t n;
    Scores out;
};

struct Counts {  // what went which way
    int64_t short_ones = 0, mid_ones = 0, long_ones = 0;  // segments
    int64_t split = 0, tasks = 0, pools = 0;              // long segments that were split; tasks of the long kernel
    int64_t redone = 0;                                   // reads whose window max_iter cut: done by the exact loop
};

// Scores of every read, by `workers` threads that stand for the blocks of a device.
Counts run_one_source(const std::vector<Read>& reads, const Params& params, const Kernels& kernels, const Limits& limits,
                      int workers);

}  // namespace chain
