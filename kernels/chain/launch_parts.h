// What the launcher keeps: memory on both sides that grows when idle, a micro-batch, a pool.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "driver.h"
#include "one_source_run.h"

namespace chain {

template <class T>
class DeviceArray {
  public:
    explicit DeviceArray(Driver& driver) : driver_(&driver) {}
    ~DeviceArray() { free(); }
    DeviceArray(const DeviceArray&) = delete;
    DeviceArray& operator=(const DeviceArray&) = delete;

    // Room for so many; what was there is gone. Only while nothing that was asked of the device uses it.
    T* need(size_t count) {
        if (count > size_) {
            free();
            const size_t roomy = count + count / 8 + 16;
            data_ = static_cast<T*>(driver_->allocate(roomy * sizeof(T)));
            size_ = roomy;
        } else if (data_ != nullptr) {
            driver_->forget(data_);
        }
        return data_;
    }
    T* data() const { return data_; }
    void clear(size_t first, size_t count, Stream stream) {
        if (count > 0) driver_->clear(data_ + first, count * sizeof(T), stream);
    }

  private:
    void free() {
        if (data_ != nullptr) driver_->release(data_);
        data_ = nullptr, size_ = 0;
    }
    Driver* driver_;
    T* data_ = nullptr;
    size_t size_ = 0;
};

template <class T>
class HostArray {  // pinned
  public:
    explicit HostArray(Driver& driver) : driver_(&driver) {}
    ~HostArray() { free(); }
    HostArray(const HostArray&) = delete;
    HostArray& operator=(const HostArray&) = delete;

    T* open(size_t count) {  // for the host to read or write so many: no copy of them may be under way
        if (count > size_) {
            free();
            const size_t roomy = count + count / 8 + 16;
            data_ = static_cast<T*>(driver_->pin(roomy * sizeof(T)));
            size_ = roomy;
        }
        if (count > 0) driver_->touch(data_, count * sizeof(T));
        return data_;
    }
    void copy_in(T* device, size_t count, Stream stream) {
        if (count > 0) driver_->copy_in(device, data_, count * sizeof(T), stream);
    }
    void copy_out(const T* device, size_t count, Stream stream, size_t at = 0) {
        if (count > 0) driver_->copy_out(data_ + at, device, count * sizeof(T), stream);
    }
    void expect(size_t count) {  // before copies to it: what is there is no longer wanted
        if (open(count) != nullptr) driver_->forget(data_);
    }
    void fill(const std::vector<T>& from) { std::copy(from.begin(), from.end(), open(from.size())); }

  private:
    void free() {
        if (data_ != nullptr) driver_->unpin(data_);
        data_ = nullptr, size_ = 0;
    }
    Driver* driver_;
    T* data_ = nullptr;
    size_t size_ = 0;
};

template <class T>
struct Both {  // an array on both sides
    explicit Both(Driver& driver) : device(driver), host(driver) {}
    DeviceArray<T> device;
    HostArray<T> host;
};

struct Class {  // segments that one launch of short_or_mid does
    explicit Class(Driver& d) : segments(d), ticket(d), stream(d.stream()), done(d.event()) {}
    Both<device::Segment> segments;
    DeviceArray<int> ticket;
    Stream stream;
    Event done;
};

struct MicroBatch {
    explicit MicroBatch(Driver& d)
        : in(d), out(d), capped(d), counts(d), offsets(d), begins(d), pairs(d), last(d), short_ones(d), mid_ones(d) {}

    device::Columns columns() const {
        int *given = in.device.data(), *found = out.device.data();
        const size_t k = n;
        return {given, given + k, given + 2 * k, given + 3 * k, last.data(), found, found + k, nullptr, n};
    }

    size_t first = 0, stop = 0;    // its reads
    int n = 0, chunks = 0;         // their anchors, and blocks of the range kernel
    int segments = 0, stage = 0;
    bool waits_for_mid = false;
    std::vector<int> tag_of_read;  // the first tag of each read, and the number of tags
    std::vector<device::Segment> pooled;
    Both<int> in, out;  // x, y, span, tag, one after the other; score, back
    Both<int> capped, counts, offsets, begins;
    Both<unsigned long long> pairs;
    DeviceArray<int> last;
    Class short_ones, mid_ones;  // the stream of the short ones is the batch's own
};

struct Pool {  // of the long segments of a group of micro-batches
    explicit Pool(Driver& d)
        : ints(d), ready(d), ticket(d), best(d), segments(d), tasks(d), last(d), stream(d.stream()), finished(d.event()) {}

    device::Columns columns() const {
        int* c = ints.data();
        const size_t k = size;
        return {c, c + k, c + 2 * k, nullptr, c + 3 * k, c + 4 * k, c + 5 * k, best.data(), size};
    }
    int tiles() const { return size / device::kTile; }

    std::vector<Cut> cuts;
    int size = 0;  // a multiple of kTile: no two segments share a tile
    DeviceArray<int> ints, ready, ticket;  // columns; of each tile what Ready holds, pulled then done
    DeviceArray<unsigned long long> best;
    Both<device::Segment> segments;  // of one batch after the other
    Both<device::Task> tasks;
    HostArray<int> last;
    Stream stream;
    Event finished;
};

struct Group {  // of micro-batches that share a pool
    explicit Group(Driver& d) : pool(d) {}
    MicroBatch& next(Driver& d) {
        if (used == batches.size()) batches.push_back(std::make_unique<MicroBatch>(d));
        return *batches[used++];
    }
    std::vector<std::unique_ptr<MicroBatch>> batches;  // as many as were ever needed
    size_t used = 0;
    Pool pool;
};

}  // namespace chain
