// Reads through the kernels of one_source.h: what is handed to the launcher and told by it, and its run on a CPU.
#pragma once

#include <string>
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
    int64_t calls = 0;                                    // of the driver
    double range_ms = 0, short_ms = 0, mid_ms = 0, long_ms = 0, copy_ms = 0;  // by the device's clock, when timed
};

// Scores of every read, by `workers` threads that stand for the blocks of a device; driver_cpu.h checks every call.
// `dropped`: the call of the driver, counted from 1, that is left out, for tests; 0 for none.
Counts run_one_source(const std::vector<Read>& reads, const Params& params, const Kernels& kernels, const Limits& limits,
                      int workers, int64_t dropped = 0);

}  // namespace chain
