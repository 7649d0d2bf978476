// The host of the kernels, written once: reads in micro-batches through a device, by whichever driver.
//
//   range_stage    pack, copy in, range, count the segments of each chunk          of batch t
//   cuts_stage     await the counts, write where segments begin                    of batch t - 1
//   classes_stage  await those, classify; short and mid on a stream of their own   of batch t - 2
//   finish         pool the long ones of a group, launch the persistent kernel, copy out what it gives back
//   hand_out       await all of a group and give its reads their scores
//
// Two groups take turns: one is handed out when the next has been launched, so the device has always something to do.
#pragma once

#include <limits>

#include "launch_parts.h"

namespace chain {

constexpr int kChunk = 1 << 14;  // anchors of one block of the range kernel
constexpr int kGrain = 16;       // short segments taken at once

#define CHAIN_START(name, ...) start(d_, Kernel::name, &Kernels::name, __VA_ARGS__)

using Milliseconds = double Counts::*;

// Memory is kept between runs, and grows only. `timed`: all on one stream, so that two events enclose one thing alone.
class Launcher {
  public:
    Launcher(Driver& driver, const Limits& limits, bool timed = false)
        : d_(driver), limits_(limits), timed_(timed), table_(driver), groups_{Group(driver), Group(driver)},
          one_stream_(timed ? driver.stream() : 0) {}

    // Fills `out` of every read but those whose window max_iter cut: these are marked, for an exact loop to do.
    // After a DriverError there may be work under way that nobody awaits: nothing more can be asked of this launcher.
    std::vector<char> run(const std::vector<Read>& reads, const Params& params) {
        if (broken_) throw DriverError("an earlier run failed on this device: open it again");
        broken_ = true;
        d_.enter();
        reads_ = &reads, counts_ = {}, used_clocks_ = 0, times_.clear();
        redo_.assign(reads.size(), 0);
        set_rules(params);
        int turn = 0;
        for (size_t first = 0; first < reads.size();) {
            Group& g = groups_[turn];
            if (int64_t n = add_batch(g, first); n > 0) advance(g, 2);
            if (g.used == size_t(limits_.micro_batches) || g.pool.size > limits_.micro_batch) {
                finish(g);
                turn = 1 - turn;
                hand_out(groups_[turn]);
            }
        }
        finish(groups_[turn]);
        hand_out(groups_[1 - turn]);
        hand_out(groups_[turn]);
        add_times();
        broken_ = false;
        return redo_;
    }

    const Counts& counts() const { return counts_; }  // of the last run

  private:
    void set_rules(const Params& params) {
        const Params q = floored(params);
        const Stream stream = on(groups_[0].pool.stream);
        fill_penalties(q, table_.host.open(q.bw + 1));
        table_.host.copy_in(table_.device.need(q.bw + 1), q.bw + 1, stream);
        d_.synchronize(stream);
        rules_ = {q.max_dist_x, std::min(q.max_dist_x, q.max_dist_y), q.bw, q.max_iter, table_.device.data()};
    }

    // The next reads as a micro-batch, from packing to the counts of segments; their anchors. Empty ones use no batch.
    int64_t add_batch(Group& g, size_t& first) {
        const std::vector<Read>& reads = *reads_;
        const size_t begin = first;
        int64_t n = 0;
        for (; first < reads.size() && (first == begin || n + reads[first].n <= limits_.micro_batch); ++first)
            n += reads[first].n;
        if (n == 0) return 0;
        MicroBatch& b = g.next(d_);
        b.first = begin, b.stop = first, b.n = int(n), b.stage = 0;
        range_stage(b);
        return n;
    }

    void advance(Group& g, size_t lag) {  // every batch of the group to where it may be, `lag` behind the newest
        for (size_t k = 0; k < g.used; ++k) {
            MicroBatch& b = *g.batches[k];
            const size_t age = g.used - 1 - k + (2 - lag);
            if (b.stage == 0 && age >= 1) cuts_stage(b);
            if (b.stage == 1 && age >= 2) classes_stage(b, g.pool);
        }
    }

    void range_stage(MicroBatch& b) {
        const Stream stream = on(b.short_ones.stream);
        pack(b);
        const int tags = b.tag_of_read.back();
        b.chunks = (b.n + kChunk - 1) / kChunk;
        b.out.device.need(2 * size_t(b.n)), b.last.need(b.n), b.capped.device.need(tags), b.counts.device.need(b.chunks);
        int* in = b.in.device.need(4 * size_t(b.n));
        clocked(&Counts::copy_ms, stream, [&] { b.in.host.copy_in(in, 4 * size_t(b.n), stream); });
        clocked(&Counts::range_ms, stream, [&] {
            b.capped.device.clear(0, tags, stream);
            CHAIN_START(range, b.chunks, stream, b.columns(), rules_, kChunk, b.capped.device.data());
            CHAIN_START(count_cuts, b.chunks, stream, b.columns(), kChunk, b.counts.device.data());
        });
        b.counts.host.expect(b.chunks);
        b.counts.host.copy_out(b.counts.device.data(), b.chunks, stream);
    }

    void pack(MicroBatch& b) {
        int *x = b.in.host.open(4 * size_t(b.n)), *y = x + b.n, *span = y + b.n, *tags = span + b.n;
        int tag = -1, i = 0;
        b.tag_of_read.clear();
        for (size_t r = b.first; r < b.stop; ++r) {
            const Read& read = (*reads_)[r];
            b.tag_of_read.push_back(tag + 1);
            for (int64_t k = 0; k < read.n; ++k, ++i) {
                const Anchor& a = read.anchors[k];
                if (k == 0 || a.x >> 32 != read.anchors[k - 1].x >> 32) ++tag;
                x[i] = pos_x(a), y[i] = pos_y(a), span[i] = span_of(a), tags[i] = tag;
            }
        }
        b.tag_of_read.push_back(tag + 1);
    }

    void cuts_stage(MicroBatch& b) {
        const Stream stream = on(b.short_ones.stream);
        const int tags = b.tag_of_read.back();
        d_.synchronize(stream);
        const int* counts = b.counts.host.open(b.chunks);
        int *before = b.offsets.host.open(b.chunks), total = 0;
        for (int k = 0; k < b.chunks; ++k) before[k] = total, total += counts[k];
        b.segments = total;
        b.offsets.host.copy_in(b.offsets.device.need(b.chunks), b.chunks, stream);
        b.begins.device.need(total), b.pairs.device.need(total);
        clocked(&Counts::range_ms, stream, [&] {
            b.pairs.device.clear(0, total, stream);
            CHAIN_START(write_cuts, b.chunks, stream, b.columns(), kChunk, b.offsets.device.data(), b.begins.device.data(),
                        b.pairs.device.data());
        });
        b.begins.host.expect(total), b.pairs.host.expect(total), b.capped.host.expect(tags);
        clocked(&Counts::copy_ms, stream, [&] {
            b.begins.host.copy_out(b.begins.device.data(), total, stream);
            b.pairs.host.copy_out(b.pairs.device.data(), total, stream);
            b.capped.host.copy_out(b.capped.device.data(), tags, stream);
        });
        b.stage = 1;
    }

    void classes_stage(MicroBatch& b, Pool& pool) {
        d_.synchronize(on(b.short_ones.stream));
        const int* begins = b.begins.host.open(b.segments);
        const unsigned long long* pairs = b.pairs.host.open(b.segments);
        std::vector<Cut> cuts(b.segments);
        for (int s = 0; s < b.segments; ++s)
            cuts[s] = {begins[s], s + 1 < b.segments ? begins[s + 1] : b.n, int64_t(pairs[s])};
        const Classes found = classify(std::move(cuts), limits_);
        score(b, b.short_ones, found.short_ones, kGrain, &Counts::short_ms);
        score(b, b.mid_ones, found.mid_ones, 1, &Counts::mid_ms);
        if (!found.mid_ones.empty()) d_.record(b.mid_ones.done, on(b.mid_ones.stream));
        b.waits_for_mid = !found.mid_ones.empty();
        b.pooled.clear();
        for (const Cut& s : found.long_ones) {
            b.pooled.push_back({pool.size, pool.size + s.end - s.begin, s.begin});
            pool.cuts.push_back({pool.size, pool.size + s.end - s.begin, s.pairs});
            const int64_t next = pool.size + (int64_t(s.end - s.begin) + device::kTile - 1) / device::kTile * device::kTile;
            if (next > std::numeric_limits<int>::max() - device::kTile) throw DriverError("a pool of more than 2**31 anchors");
            pool.size = int(next);
        }
        counts_.short_ones += found.short_ones.size(), counts_.mid_ones += found.mid_ones.size();
        counts_.long_ones += found.long_ones.size();
        b.stage = 2;
    }

    void score(MicroBatch& b, Class& c, const std::vector<device::Segment>& segments, int grain, Milliseconds ms) {
        if (segments.empty()) return;
        const Stream stream = on(c.stream);
        const int count = int(segments.size());
        c.segments.host.fill(segments);
        c.segments.host.copy_in(c.segments.device.need(count), count, stream);
        c.ticket.need(1), c.ticket.clear(0, 1, stream);
        const int blocks = std::min(d_.resident(Kernel::short_or_mid), (count + grain - 1) / grain);
        clocked(ms, stream, [&] {
            CHAIN_START(short_or_mid, blocks, stream, b.columns(), rules_, c.segments.device.data(), count, grain,
                        c.ticket.data());
        });
    }

    void finish(Group& g) {  // all that the group still needs is asked of the device
        advance(g, 0);
        if (g.pool.size > 0) long_ones(g);
        int at = 0;
        for (size_t k = 0; k < g.used; ++k) {
            MicroBatch& b = *g.batches[k];
            const Stream stream = on(b.short_ones.stream);
            const int count = int(b.pooled.size());
            if (b.waits_for_mid) d_.wait(b.mid_ones.done, stream);
            if (count > 0) {
                d_.wait(g.pool.finished, stream);
                clocked(&Counts::long_ms, stream, [&] {
                    CHAIN_START(give_back, count, stream, b.columns(), g.pool.columns(), g.pool.segments.device.data() + at);
                });
            }
            at += count;
            b.out.host.expect(2 * size_t(b.n));
            clocked(&Counts::copy_ms, stream, [&] { b.out.host.copy_out(b.out.device.data(), 2 * size_t(b.n), stream); });
        }
    }

    void long_ones(Group& g) {
        Pool& p = g.pool;
        const Stream stream = on(p.stream);
        std::vector<device::Segment> all;
        for (size_t k = 0; k < g.used; ++k)
            all.insert(all.end(), g.batches[k]->pooled.begin(), g.batches[k]->pooled.end());
        p.segments.host.fill(all);
        p.segments.host.copy_in(p.segments.device.need(all.size()), all.size(), stream);
        p.ints.need(6 * size_t(p.size)), p.best.need(p.size);
        clocked(&Counts::long_ms, stream, [&] {
            const device::Segment* at = p.segments.device.data();
            int* c = p.ints.data();
            for (size_t k = 0; k < g.used; ++k) {  // what it reads was awaited by classes_stage
                const MicroBatch& b = *g.batches[k];
                const int count = int(b.pooled.size());
                if (count > 0)
                    CHAIN_START(collect, count, stream, b.columns(), c, c + p.size, c + 2 * size_t(p.size), p.columns(), at);
                at += count;
            }
        });
        const std::vector<device::Task> tasks = tasks_of(p);
        const int count = int(tasks.size());
        p.tasks.host.fill(tasks);
        p.tasks.host.copy_in(p.tasks.device.need(count), count, stream);
        p.ready.need(2 * size_t(p.tiles())), p.ready.clear(0, 2 * size_t(p.tiles()), stream);
        p.ticket.need(1), p.ticket.clear(0, 1, stream);
        clocked(&Counts::long_ms, stream, [&] {
            const device::Ready ready{p.ready.data(), p.ready.data() + p.tiles()};
            const int blocks = std::min(d_.resident(Kernel::long_ones), count);
            CHAIN_START(long_ones, blocks, stream, p.columns(), rules_, p.tasks.device.data(), count, p.ticket.data(), ready);
        });
        d_.record(p.finished, stream);
        ++counts_.pools, counts_.tasks += count;
        for (const device::Task& t : tasks) counts_.split += t.from >= 0 && t.tile == t.begin;
    }

    std::vector<device::Task> tasks_of(Pool& p) {  // how far a giant's tiles reach must be known to split it
        const int* last = nullptr;
        const auto giant = [&](const Cut& s) { return is_split(s, limits_); };
        if (std::any_of(p.cuts.begin(), p.cuts.end(), giant)) {
            const Stream stream = on(p.stream);
            p.last.expect(p.size);
            for (const Cut& s : p.cuts)
                if (giant(s)) p.last.copy_out(p.columns().last + s.begin, s.end - s.begin, stream, s.begin);
            d_.synchronize(stream);
            last = p.last.open(p.size);
        }
        return schedule(p.cuts, last, limits_);
    }

    void hand_out(Group& g) {
        for (size_t k = 0; k < g.used; ++k) {
            MicroBatch& b = *g.batches[k];
            d_.synchronize(on(b.short_ones.stream));
            const int *score = b.out.host.open(2 * size_t(b.n)), *back = score + b.n;
            const int* capped = b.capped.host.open(b.tag_of_read.back());
            for (size_t r = b.first; r < b.stop; ++r) {
                const Read& read = (*reads_)[r];
                const int *tags = capped + b.tag_of_read[r - b.first], *end = capped + b.tag_of_read[r - b.first + 1];
                redo_[r] = std::any_of(tags, end, [](int cut) { return cut != 0; });
                counts_.redone += redo_[r];
                for (int64_t i = 0; i < read.n && !redo_[r]; ++i) {
                    read.out.score[i] = score[i];
                    read.out.previous[i] = back[i] > 0 ? i - back[i] : -1;
                    fill_peak(read.out, i);
                }
                score += read.n, back += read.n;
            }
        }
        g.used = 0, g.pool.cuts.clear(), g.pool.size = 0;
    }

    template <class Do>
    void clocked(Milliseconds where, Stream stream, Do&& body) {
        if (!timed_) return body();
        while (clocks_.size() < used_clocks_ + 2) clocks_.push_back(d_.event());
        const Timed t{where, clocks_[used_clocks_], clocks_[used_clocks_ + 1]};
        used_clocks_ += 2;
        d_.record(t.from, stream);
        body();
        d_.record(t.to, stream);
        times_.push_back(t);
    }

    void add_times() {
        for (const Timed& t : times_) counts_.*t.where += d_.elapsed_ms(t.from, t.to);
    }

    Stream on(Stream stream) const { return timed_ ? one_stream_ : stream; }

    struct Timed {
        Milliseconds where;
        Event from, to;
    };

    Driver& d_;
    Limits limits_;
    bool timed_, broken_ = false;
    Both<int> table_;
    Group groups_[2];
    Stream one_stream_;
    const std::vector<Read>* reads_ = nullptr;
    device::Rules rules_{};
    std::vector<Timed> times_;
    std::vector<Event> clocks_;
    size_t used_clocks_ = 0;
    std::vector<char> redo_;
    Counts counts_;
};

#undef CHAIN_START

}  // namespace chain
