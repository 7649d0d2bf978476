// A device as a library of C functions, built on demand by gpu_build.py for CUDA, for HIP, and with the CPU double of a
// driver, by which everything above the driver is tested. Functions that fail return 0 and leave in `said` why.
#include "launch.h"

#include "check.h"

#if defined(__CUDACC__) || defined(__HIPCC__)
#include "driver_gpu.h"
#else
#include "driver_cpu.h"
#endif

using namespace chain;

namespace {

struct Open {
    int32_t device;
    int32_t workers;    // of the double
    int64_t dropped;    // of the double: the call that is left out
    int64_t memory;     // of the double, bytes
    double timeout_s;   // of a wait for the device
};

struct Job {
    int64_t reads;
    const Anchor* const* anchors;
    const int64_t* sizes;
    int32_t* const* score;
    int64_t* const* previous;
    int32_t* const* peak;
    char* redo;
    Params params;
    Limits limits;
    int32_t timed;
    int64_t counts[7];  // short, mid, long, split, tasks, pools, redone
    double ms[5];       // range, short, mid, long, copies
};

struct About {
    char name[512];
    int32_t units, threads_of_unit, threads_of_block, blocks_short, blocks_long;
    int64_t memory, free;
};

struct Device {
    std::unique_ptr<Driver> driver;
    std::unique_ptr<Launcher> launcher;
    Limits limits;
    bool timed = false;
};

template <class Do>
auto guarded(char* said, int32_t room, Do&& body) -> decltype(body()) {
    try {
        return body();
    } catch (const std::exception& error) {
        const std::string text = error.what();
        const size_t kept = std::min(text.size(), size_t(room - 1));
        text.copy(said, kept);
        said[kept] = 0;
        return {};
    }
}

bool same(const Limits& a, const Limits& b) {
    return a.micro_batch == b.micro_batch && a.micro_batches == b.micro_batches && a.short_anchors == b.short_anchors &&
           a.long_pairs == b.long_pairs && a.split_pairs == b.split_pairs;
}

void check_job(const Job& job) {
    check_full(check(job.params));
    const Limits& l = job.limits;
    if (l.micro_batch < 1 || l.micro_batch > 1 << 28 || l.micro_batches < 1 || l.short_anchors < 1)
        throw std::invalid_argument("chain: batches and limits must be positive, a batch at most 2**28");
    for (int64_t r = 0; r < job.reads; ++r) {
        if (job.sizes[r] > 1 << 28) throw std::invalid_argument("chain: more than 2**28 anchors of one read");
        check_anchors(job.anchors[r], job.sizes[r]);
    }
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int64_t chain_layout() {  // of what both sides must see alike
    return int64_t(sizeof(Open)) << 40 | int64_t(sizeof(Job)) << 20 | int64_t(sizeof(About));
}

EXPORT int32_t chain_devices(char* said, int32_t room) {
#if defined(__CUDACC__) || defined(__HIPCC__)
    return guarded(said, room, [] { return gpu_count(); });
#else
    return guarded(said, room, [] { return 1; });
#endif
}

EXPORT Device* chain_open(const Open* how, char* said, int32_t room) {
    return guarded(said, room, [&] {
        auto device = std::make_unique<Device>();
#if defined(__CUDACC__) || defined(__HIPCC__)
        device->driver = std::make_unique<GpuDriver>(how->device, how->timeout_s);
#else
        device->driver = std::make_unique<CpuDriver>(kernels_portable, how->workers, how->dropped, size_t(how->memory));
#endif
        return device.release();
    });
}

EXPORT int32_t chain_about(Device* device, About* about, char* said, int32_t room) {
    return guarded(said, room, [&] {
        device->driver->enter();
        const Properties p = device->driver->properties();
        *about = {};
        p.name.copy(about->name, sizeof about->name - 1);
        about->units = p.units, about->threads_of_unit = p.threads_of_unit, about->threads_of_block = device::kTile;
        about->blocks_short = device->driver->resident(Kernel::short_or_mid);
        about->blocks_long = device->driver->resident(Kernel::long_ones);
        about->memory = p.memory_bytes, about->free = p.free_bytes;
        return 1;
    });
}

EXPORT int32_t chain_run(Device* device, Job* job, char* said, int32_t room) {
    return guarded(said, room, [&] {
        check_job(*job);
        if (!device->launcher || !same(device->limits, job->limits) || device->timed != bool(job->timed)) {
            device->driver->enter();
            device->launcher.reset();
            device->launcher = std::make_unique<Launcher>(*device->driver, job->limits, bool(job->timed));
            device->limits = job->limits, device->timed = bool(job->timed);
        }
        std::vector<Read> reads;
        for (int64_t r = 0; r < job->reads; ++r)
            reads.push_back({job->anchors[r], job->sizes[r], {job->score[r], job->previous[r], job->peak[r]}});
        const std::vector<char> redo = device->launcher->run(reads, job->params);
        std::copy(redo.begin(), redo.end(), job->redo);
        const Counts& c = device->launcher->counts();
        const int64_t counts[] = {c.short_ones, c.mid_ones, c.long_ones, c.split, c.tasks, c.pools, c.redone};
        const double ms[] = {c.range_ms, c.short_ms, c.mid_ms, c.long_ms, c.copy_ms};
        std::copy(counts, counts + 7, job->counts), std::copy(ms, ms + 5, job->ms);
        return 1;
    });
}

EXPORT void chain_close(Device* device) {
    if (device == nullptr) return;
    char said[8];
    guarded(said, sizeof said, [&] { return device->driver->enter(), 1; });
    device->launcher.reset();  // before its driver
    delete device;
}
