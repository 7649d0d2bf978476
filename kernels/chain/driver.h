// What the launcher asks of a device, and nothing else. driver_gpu.h asks CUDA or HIP, driver_cpu.h is a strict double.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include "one_source_cpu.h"

namespace chain {

struct DriverError : std::runtime_error {  // in the words of the driver
    using std::runtime_error::runtime_error;
};

#define CHAIN_KERNELS(X) X(range) X(count_cuts) X(write_cuts) X(short_or_mid) X(long_ones) X(collect) X(give_back)
#define CHAIN_ENTRY(name) name,
enum class Kernel { CHAIN_KERNELS(CHAIN_ENTRY) };
#undef CHAIN_ENTRY
#define CHAIN_ENTRY(name) #name,
constexpr const char* kKernelNames[] = {CHAIN_KERNELS(CHAIN_ENTRY)};
#undef CHAIN_ENTRY

struct Properties {
    std::string name;           // of the device, its driver and runtime
    int units = 1;              // multiprocessors, compute units
    int threads_of_unit = 0;    // that it can hold
    long long memory_bytes = 0, free_bytes = 0;
};

using Stream = int;
using Event = int;

// Calls come from one thread at a time. What a call with a stream asks for happens later, in the order of its stream;
// order between streams is made by events alone, order with the host by synchronize alone. Every call may throw
// DriverError, also for an earlier call of which the fault is only seen now.
class Driver {
  public:
    virtual ~Driver() = default;
    virtual void enter() {}  // first call of every run: the host's thread may be another one
    virtual Properties properties() = 0;
    virtual int resident(Kernel kernel) = 0;  // blocks of it that the device holds at once

    virtual void* allocate(size_t bytes) = 0;  // on the device; of what is awaited only
    virtual void release(void* device) = 0;
    virtual void* pin(size_t bytes) = 0;  // on the host, for copies
    virtual void unpin(void* host) = 0;

    virtual Stream stream() = 0;  // made once, kept to the end
    virtual Event event() = 0;

    virtual void copy_in(void* device, const void* host, size_t bytes, Stream stream) = 0;
    virtual void copy_out(void* host, const void* device, size_t bytes, Stream stream) = 0;
    virtual void clear(void* device, size_t bytes, Stream stream) = 0;
    virtual void launch(Kernel kernel, int blocks, void** arguments, Stream stream) = 0;
    virtual void record(Event event, Stream stream) = 0;
    virtual void wait(Event event, Stream stream) = 0;  // what the stream is given from now on comes after the event
    virtual void synchronize(Stream stream) = 0;        // the host waits for all that the stream was given
    virtual double elapsed_ms(Event from, Event to) = 0;  // of events that were awaited

    // Told to the double, which checks; nothing to a real device.
    virtual void touch(const void*, size_t) {}        // the host reads or writes pinned memory
    virtual void forget(const void*) {}               // what an allocation of the device holds is no longer wanted
};

// A kernel's arguments, of exactly the types of its parameters, as the runtimes take them.
template <class T>
struct Same {
    using type = T;
};
template <class... P>
void start(Driver& driver, Kernel kernel, void (*Kernels::*)(int, P...), int blocks, Stream stream,
           typename Same<P>::type... arguments) {
    void* pointers[] = {&arguments...};
    driver.launch(kernel, blocks, pointers, stream);
}

}  // namespace chain
