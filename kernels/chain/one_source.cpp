// Runs the kernels of one_source.h on the CPU, by the launcher that GPUs use: launch.h.
#include "driver_cpu.h"
#include "launch.h"

namespace chain {
namespace {

Backend fastest() {
    for (const Backend b : {Backend::avx512, Backend::avx2})
        if (has(b)) return b;
    return Backend::scalar;
}

}  // namespace

Counts run_one_source(const std::vector<Read>& reads, const Params& params, const Kernels& kernels, const Limits& limits,
                      int workers, int64_t dropped) {
    CpuDriver driver(kernels, workers, dropped);
    Counts counts;
    {
        Launcher launcher(driver, limits);
        const std::vector<char> redo = launcher.run(reads, params);
        for (size_t r = 0; r < reads.size(); ++r)
            if (redo[r]) dp(fastest(), reads[r].anchors, reads[r].n, params, reads[r].out);
        counts = launcher.counts();
    }
    if (const std::string left = driver.left(); !left.empty()) throw DriverError(left);
    counts.calls = driver.calls();
    return counts;
}

}  // namespace chain
