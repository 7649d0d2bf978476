// A double of a GPU's driver that runs the CPU build of the kernels and checks what is asked of it.
//
// Nothing happens before it must: work waits in its stream until the host synchronizes with it, or with what waits for
// it. Copies that nobody awaited have not been made then, and memory that they should have filled is poison. Uses of
// the same memory without an order between them, reads of what was never written, pointers past an allocation or
// released, grids of no blocks and memory that is not pinned are errors, though a real device may well forgive them.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <thread>
#include <tuple>

#include "driver_cpu_memory.h"
#include "driver_cpu_uses.h"

namespace chain {

class CpuDriver : public Driver {
  public:
    // `workers` threads stand for blocks; call number `dropped` (from 1) is left out, as a fault that must be noticed.
    CpuDriver(const Kernels& kernels, int workers, int64_t dropped = 0, size_t memory_bytes = size_t(1) << 62)
        : kernels_(kernels), workers_(workers), dropped_(dropped), free_(memory_bytes), memory_bytes_(memory_bytes) {}

    Properties properties() override {
        return {"CPU double of a GPU", workers_, device::kTile, (long long)(memory_bytes_), (long long)(free_)};
    }
    int resident(Kernel) override { return workers_; }

    void* allocate(size_t bytes) override {
        if (bytes > free_) throw DriverError("allocate: out of memory, " + std::to_string(bytes) + " bytes are not free");
        free_ -= bytes;
        return memory_.add(bytes, false);
    }
    void release(void* at) override { remove(at, false, "release"); }
    void* pin(size_t bytes) override { return memory_.add(bytes, true); }
    void unpin(void* at) override { remove(at, true, "unpin"); }

    Stream stream() override {
        queues_.emplace_back();
        clocks_.emplace_back();
        return Stream(queues_.size() - 1);
    }
    Event event() override {
        events_.emplace_back();
        return Event(events_.size() - 1);
    }

    void copy_in(void* at, const void* host, size_t bytes, Stream stream) override { copy(at, host, bytes, stream, true); }
    void copy_out(void* host, const void* at, size_t bytes, Stream stream) override { copy(host, at, bytes, stream, false); }
    void clear(void* at, size_t bytes, Stream stream) override {
        if (dropped()) return;
        const Operation op = next("clear", stream);
        add(stream, {at}, [=, this] {
            memory_.use(op, floor(), at, {{0, bytes}}, Access::write);
            std::memset(at, 0, bytes);
        });
    }

    void launch(Kernel kernel, int blocks, void** arguments, Stream stream) override {
        if (dropped()) return;
        const Operation op = next(std::string("kernel ") + kKernelNames[int(kernel)], stream);
        if (blocks < 1) throw DriverError(op.name + ": invalid configuration, a grid of " + std::to_string(blocks) + " blocks");
#define CHAIN_CASE(name) \
    case Kernel::name: return launch(op, &Kernels::name, blocks, arguments);
        switch (kernel) { CHAIN_KERNELS(CHAIN_CASE) }
#undef CHAIN_CASE
    }

    void record(Event event, Stream stream) override {
        if (dropped()) return;
        const Operation op = next("record", stream);
        Moment& m = events_.at(event);
        m = {stream, op.clock[stream], op.clock, -1};
        add(stream, {}, [=, this] {
            Moment& now = events_[event];
            if (now.step == op.clock[stream]) now.at_ms = milliseconds();
        });
    }
    void wait(Event event, Stream stream) override {
        if (dropped()) return;
        const Moment m = events_.at(event);
        if (m.stream < 0) throw DriverError("wait: for an event that was never recorded");
        join(clocks_.at(stream), m.clock);
        next("wait", stream);
        add(stream, {}, [=, this] { advance(m.stream, m.step); });
    }
    void synchronize(Stream stream) override {
        if (dropped()) return;
        advance(stream, SIZE_MAX >> 1);
        join(host_.clock, clocks_.at(stream));
    }
    double elapsed_ms(Event from, Event to) override {
        for (const Event e : {from, to})
            if (events_.at(e).at_ms < 0) throw DriverError("elapsed_ms: of an event that has not come");
        return events_[to].at_ms - events_[from].at_ms;
    }

    void touch(const void* at, size_t bytes) override {
        memory_.use(host_, floor(), at, {{0, bytes}}, Access::update, true);
    }
    void forget(const void* at) override {
        Block* block = memory_.find(at);
        if (block == nullptr) throw DriverError("forget: no such memory");
        if (!unused(*block)) throw DriverError("forget: memory that is still in use");
        if (block->pinned) std::memset(block->data, Memory::kPoison, block->bytes);
        block->written.clear();
    }

    int64_t calls() const { return calls_; }
    std::string left() const {  // after the launcher is gone: what it forgot
        if (!fault_.empty()) return fault_;
        for (const auto& queue : queues_)
            if (!queue.empty()) return "left: work that was never awaited";
        return memory_.size() == 0 ? "" : "left: " + std::to_string(memory_.size()) + " allocations never released";
    }

  private:
    struct Moment {
        int stream = -1;
        int64_t step = 0;
        Clock clock;
        double at_ms = -1;
    };
    struct Waiting {
        Clock clock;
        int64_t step;
        std::vector<const void*> uses;
        std::function<void()> run;
    };

    bool dropped() { return ++calls_ == dropped_; }

    Operation next(std::string name, Stream stream) {  // after all before it in its stream, and all the host awaited
        Clock& clock = clocks_.at(stream);
        join(clock, host_.clock);
        clock.resize(std::max(clock.size(), clocks_.size()), 0);
        ++clock[stream];
        return {std::move(name), stream, clock};
    }
    void add(Stream stream, std::vector<const void*> uses, std::function<void()> run) {
        queues_[stream].push_back({clocks_[stream], clocks_[stream][stream], std::move(uses), std::move(run)});
    }
    Operation floor() const {  // what all that waits, and all that will be asked for, comes after
        Operation low = host_;
        for (const auto& queue : queues_)
            for (size_t s = 0; !queue.empty() && s < low.clock.size(); ++s)
                low.clock[s] = std::min(low.clock[s], s < queue.front().clock.size() ? queue.front().clock[s] : 0);
        return low;
    }
    void advance(Stream stream, int64_t step) {  // work of a stream up to a step; of others what it waits for
        auto& queue = queues_.at(stream);
        while (!queue.empty() && queue.front().step <= step) {
            const Waiting first = std::move(queue.front());
            queue.pop_front();
            first.run();
        }
    }

    void copy(void* to, const void* from, size_t bytes, Stream stream, bool in) {
        if (dropped()) return;
        const Operation op = next(in ? "copy in" : "copy out", stream);
        memory_.use(op, floor(), in ? from : to, {{0, bytes}}, in ? Access::read : Access::write, true);
        add(stream, {to, from}, [=, this] {
            memory_.use(op, floor(), in ? to : from, {{0, bytes}}, in ? Access::write : Access::read);
            std::memcpy(to, from, bytes);
        });
    }

    template <class... P>
    void launch(const Operation& op, void (*Kernels::*kernel)(int, P...), int blocks, void** given) {
        launch(op, kernel, blocks, given, std::index_sequence_for<P...>());
    }
    template <class... P, size_t... I>
    void launch(const Operation& op, void (*Kernels::*kernel)(int, P...), int blocks, void** given,
                std::index_sequence<I...>) {
        const std::tuple<P...> arguments(*static_cast<P*>(given[I])...);  // copied now, as a launch does
        std::vector<const void*> uses;
        (pointers(std::get<I>(arguments), uses), ...);
        add(op.stream, std::move(uses), [=, this] {
            uses_of(kernel, Uses{memory_, op, floor(), blocks}, std::get<I>(arguments)...);
            run(blocks, [&](int block) { (kernels_.*kernel)(block, std::get<I>(arguments)...); });
        });
    }
    template <class Body>
    void run(int blocks, const Body& body) {  // every block once
        std::atomic<int> next{0};
        const auto work = [&] {
            for (int block; (block = next.fetch_add(1)) < blocks;) body(block);
        };
        std::vector<std::jthread> others;
        for (int w = 1; w < std::min(workers_, blocks); ++w) others.emplace_back(work);
        work();
    }

    bool unused(const Block& block) const {
        for (const auto& queue : queues_)
            for (const Waiting& each : queue)
                for (const void* at : each.uses)
                    if (at >= block.data && at < block.data + block.bytes) return false;
        return memory_.idle(block, host_);
    }
    void remove(void* at, bool pinned, const char* name) {  // called by destructors: a fault is kept, not thrown
        if (dropped()) return;
        Block* block = memory_.find(at);
        if (block == nullptr || block->data != at || block->pinned != pinned) {
            fault_ = std::string(name) + ": of what was not allocated, or twice";
            return;
        }
        if (!unused(*block)) fault_ = std::string(name) + ": of memory that is still in use";
        if (!pinned) free_ += block->bytes;
        memory_.remove(*block);
    }
    static double milliseconds() {
        return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
    }

    const Kernels& kernels_;
    int workers_;
    int64_t dropped_, calls_ = 0;
    size_t free_, memory_bytes_;
    Memory memory_;
    Operation host_{"the host", -1, {}};
    std::vector<std::deque<Waiting>> queues_;
    std::vector<Clock> clocks_;
    std::vector<Moment> events_;
    std::string fault_;
};

}  // namespace chain
