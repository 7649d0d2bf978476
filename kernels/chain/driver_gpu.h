// The driver on a real device: CUDA's runtime or HIP's, which name the same calls alike. Compiled for sm_80, sm_90 and
// gfx90a; never run on a GPU here.
#pragma once

#include <chrono>
#include <thread>
#include <vector>

#include "driver.h"
#include "one_source.h"

#ifdef __HIPCC__
#define GPU(name) hip##name
#define GPU_TEXT "HIP"
using DeviceProp = hipDeviceProp_t;
#else
#include <cuda_runtime.h>
#define GPU(name) cuda##name
#define GPU_TEXT "CUDA"
using DeviceProp = cudaDeviceProp;
#endif

namespace chain {

inline void said(GPU(Error_t) error, const char* call) {
    if (error != GPU(Success))
        throw DriverError(std::string(GPU_TEXT) + ": " + call + ": " + GPU(GetErrorString)(error));
}

inline int gpu_count() {  // DriverError: why there is none
    int count = 0;
    said(GPU(GetDeviceCount)(&count), "counting devices");
    return count;
}

class GpuDriver : public Driver {
  public:
    // A wait longer than `timeout_s` is an error; the device is given up then.
    GpuDriver(int device, double timeout_s) : device_(device), timeout_s_(timeout_s) {
        enter();
        said(GPU(GetDeviceProperties)(&about_, device), "device properties");
        for (int k = 0; k < kKernels; ++k) {  // the device has code of it, or says why not
            said(GPU(OccupancyMaxActiveBlocksPerMultiprocessor)(&blocks_[k], entry(Kernel(k)), device::kTile, 0), kKernelNames[k]);
            if (blocks_[k] < 1) throw DriverError(std::string(kKernelNames[k]) + ": not one block of it fits the device");
        }
    }
    ~GpuDriver() override {
        if (lost_) return;  // every call would wait for ever
        for (auto e : events_) (void)GPU(EventDestroy)(e);
        for (auto s : streams_) (void)GPU(StreamDestroy)(s);
    }

    void enter() override { said(GPU(SetDevice)(device_), "choosing the device"); }

    Properties properties() override {
        int driver = 0, runtime = 0;
        size_t free = 0, all = 0;
        said(GPU(DriverGetVersion)(&driver), "version of the driver");
        said(GPU(RuntimeGetVersion)(&runtime), "version of the runtime");
        said(GPU(MemGetInfo)(&free, &all), "memory of the device");
        return {std::string(about_.name) + ", " GPU_TEXT " driver " + std::to_string(driver) + ", runtime " + std::to_string(runtime),
                about_.multiProcessorCount, about_.maxThreadsPerMultiProcessor, (long long)(all), (long long)(free)};
    }
    int resident(Kernel kernel) override { return blocks_[int(kernel)] * about_.multiProcessorCount; }

    void* allocate(size_t bytes) override {
        void* at = nullptr;
        const auto error = GPU(Malloc)(&at, bytes);
        if (error != GPU(Success)) {
            (void)GPU(GetLastError)();  // it was told; later calls must not tell it again
            throw DriverError(std::string(GPU_TEXT) + ": " + std::to_string(bytes >> 20) + " MiB on the device: " +
                              GPU(GetErrorString)(error) + "; smaller micro-batches take less");
        }
        return at;
    }
    void release(void* at) override {
        if (!lost_) (void)GPU(Free)(at);
    }
    void* pin(size_t bytes) override {
        void* at = nullptr;
#ifdef __HIPCC__
        said(hipHostMalloc(&at, bytes, hipHostMallocDefault), "pinned memory of the host");
#else
        said(cudaHostAlloc(&at, bytes, cudaHostAllocDefault), "pinned memory of the host");
#endif
        return at;
    }
    void unpin(void* at) override {
        if (lost_) return;
#ifdef __HIPCC__
        (void)hipHostFree(at);
#else
        (void)cudaFreeHost(at);
#endif
    }

    Stream stream() override {
        GPU(Stream_t) made;
        said(GPU(StreamCreateWithFlags)(&made, GPU(StreamNonBlocking)), "a stream");
        streams_.push_back(made);
        return Stream(streams_.size() - 1);
    }
    Event event() override {
        GPU(Event_t) made;
        said(GPU(EventCreate)(&made), "an event");
        events_.push_back(made);
        return Event(events_.size() - 1);
    }

    void copy_in(void* at, const void* host, size_t bytes, Stream stream) override {
        said(GPU(MemcpyAsync)(at, host, bytes, GPU(MemcpyHostToDevice), streams_[stream]), "copy to the device");
    }
    void copy_out(void* host, const void* at, size_t bytes, Stream stream) override {
        said(GPU(MemcpyAsync)(host, at, bytes, GPU(MemcpyDeviceToHost), streams_[stream]), "copy from the device");
    }
    void clear(void* at, size_t bytes, Stream stream) override {
        said(GPU(MemsetAsync)(at, 0, bytes, streams_[stream]), "clearing memory");
    }
    void launch(Kernel kernel, int blocks, void** arguments, Stream stream) override {
        last_ = kKernelNames[int(kernel)];
        said(GPU(LaunchKernel)(entry(kernel), dim3(blocks), dim3(device::kTile), arguments, 0, streams_[stream]), last_);
    }
    void record(Event event, Stream stream) override {
        said(GPU(EventRecord)(events_[event], streams_[stream]), "recording an event");
    }
    void wait(Event event, Stream stream) override {
        said(GPU(StreamWaitEvent)(streams_[stream], events_[event], 0), "waiting for an event");
    }
    void synchronize(Stream stream) override {
        const auto began = std::chrono::steady_clock::now();
        for (;;) {
            const auto error = GPU(StreamQuery)(streams_[stream]);
            if (error == GPU(Success)) return;
            if (error != GPU(ErrorNotReady)) said(error, (std::string("waiting for kernels, the last was ") + last_).c_str());
            const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - began;
            if (waited.count() > timeout_s_) {
                lost_ = true;
                throw DriverError(std::string(GPU_TEXT) + ": the device did not answer in " + std::to_string(int(timeout_s_)) +
                                  " s; the last kernel was " + last_);
            }
            if (waited.count() > 1e-3) std::this_thread::sleep_for(std::chrono::microseconds(50));
        }
    }
    double elapsed_ms(Event from, Event to) override {
        float ms = 0;
        said(GPU(EventElapsedTime)(&ms, events_[from], events_[to]), "time between events");
        return ms;
    }

  private:
    static constexpr int kKernels = int(Kernel::give_back) + 1;

    template <class... P>  // compiles only where the table of the CPU builds names the same parameters
    static const void* same(void (*kernel)(P...), void (*Kernels::*)(int, P...)) {
        return reinterpret_cast<const void*>(kernel);
    }
    static const void* entry(Kernel kernel) {
#define CHAIN_ENTRY(name) same(&CHAIN_VARIANT::chain_##name, &Kernels::name),
        static const void* entries[] = {CHAIN_KERNELS(CHAIN_ENTRY)};
#undef CHAIN_ENTRY
        return entries[int(kernel)];
    }

    int device_;
    double timeout_s_;
    DeviceProp about_{};
    int blocks_[kKernels] = {};
    std::vector<GPU(Stream_t)> streams_;
    std::vector<GPU(Event_t)> events_;
    const char* last_ = "none";
    bool lost_ = false;
};

}  // namespace chain
