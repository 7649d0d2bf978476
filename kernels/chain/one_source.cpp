// Runs the kernels of one_source.h on the CPU: micro-batches, classes, the pool, and reads that must be done again.
#include "one_source_run.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <thread>

namespace chain {
namespace {

using namespace device;

constexpr int kChunk = 1 << 14;  // anchors of one block of the range kernel
constexpr int kGrain = 16;       // short segments taken at once

Backend fastest() {
    for (const Backend b : {Backend::avx512, Backend::avx2})
        if (has(b)) return b;
    return Backend::scalar;
}

struct Pack {  // columns that belong to somebody
    explicit Pack(int n) : n(n), x(n), y(n), span(n), tag(n), last(n), score(n), back(n) {}
    Columns columns(unsigned long long* best = nullptr) {
        return {x.data(), y.data(), span.data(), tag.data(), last.data(), score.data(), back.data(), best, n};
    }
    int n;
    std::vector<int> x, y, span, tag, last, score, back;
};

struct MicroBatch {
    MicroBatch(size_t first, size_t stop, int n) : first(first), stop(stop), pack(n) {}
    size_t first, stop;  // its reads
    Pack pack;
    std::vector<int> tag_of_read;  // the first tag of each read
    std::vector<int> capped;       // of each tag: max_iter cut some window
    std::vector<Segment> pooled;
};

class Run {
  public:
    Run(const std::vector<Read>& reads, const Params& params, const Kernels& kernels, const Limits& limits, int workers)
        : reads_(reads), q_(floored(params)), params_(params), kernels_(kernels), limits_(limits), workers_(workers),
          table_(q_.bw + 1) {
        fill_penalties(q_, table_.data());
        rules_ = {q_.max_dist_x, std::min(q_.max_dist_x, q_.max_dist_y), q_.bw, q_.max_iter, table_.data()};
    }

    Counts run() {
        for (size_t first = 0; first < reads_.size();) {
            size_t stop = first;
            int64_t n = 0;
            for (; stop < reads_.size() && (stop == first || n + reads_[stop].n <= limits_.micro_batch); ++stop)
                n += reads_[stop].n;
            begin_batch(first, stop, int(n));
            if (int(pending_.size()) >= limits_.micro_batches) finish();
            first = stop;
        }
        finish();
        return counts_;
    }

  private:
    template <class Kernel, class... Args>
    void launch(int blocks, Kernel kernel, Args... args) {  // every block once, by `workers_` threads
        std::atomic<int> next{0};
        const auto work = [&] {
            for (int block; (block = next.fetch_add(1)) < blocks;) kernel(block, args...);
        };
        std::vector<std::jthread> others;
        for (int w = 1; w < std::min(workers_, blocks); ++w) others.emplace_back(work);
        work();
    }

    void begin_batch(size_t first, size_t stop, int n) {
        pending_.push_back(std::make_unique<MicroBatch>(first, stop, n));
        MicroBatch& b = *pending_.back();
        pack(b);
        if (n == 0) return;
        const Columns c = b.pack.columns();
        const int chunks = (n + kChunk - 1) / kChunk;
        launch(chunks, kernels_.range, c, rules_, kChunk, b.capped.data());
        Classes classes = classify(cuts(c, chunks), limits_);
        score(c, classes.short_ones, kGrain);
        score(c, classes.mid_ones, 1);
        for (const Cut& s : classes.long_ones) {
            const int at = int(pool_size_);
            b.pooled.push_back({at, at + (s.end - s.begin), s.begin});
            pooled_.push_back({at, at + (s.end - s.begin), s.pairs});
            pool_size_ += (s.end - s.begin + kTile - 1) / kTile * kTile;  // no two segments share a tile
        }
        counts_.short_ones += classes.short_ones.size(), counts_.mid_ones += classes.mid_ones.size();
        counts_.long_ones += classes.long_ones.size();
        if (pool_size_ > limits_.micro_batch) finish();
    }

    void pack(MicroBatch& b) {
        int tag = -1, i = 0;
        for (size_t r = b.first; r < b.stop; ++r) {
            b.tag_of_read.push_back(tag + 1);
            for (int64_t k = 0; k < reads_[r].n; ++k, ++i) {
                const Anchor& a = reads_[r].anchors[k];
                if (k == 0 || a.x >> 32 != reads_[r].anchors[k - 1].x >> 32) ++tag;
                b.pack.x[i] = pos_x(a), b.pack.y[i] = pos_y(a), b.pack.span[i] = span_of(a), b.pack.tag[i] = tag;
            }
        }
        b.tag_of_read.push_back(tag + 1);
        b.capped.assign(tag + 1, 0);
    }

    std::vector<Cut> cuts(const Columns& c, int chunks) {
        std::vector<int> counts(chunks), offsets(chunks);
        launch(chunks, kernels_.count_cuts, c, kChunk, counts.data());
        int total = 0;
        for (int k = 0; k < chunks; ++k) offsets[k] = total, total += counts[k];
        std::vector<int> begins(total + 1, c.n);
        std::vector<unsigned long long> pairs(total, 0);
        launch(chunks, kernels_.write_cuts, c, kChunk, offsets.data(), begins.data(), pairs.data());
        std::vector<Cut> found(total);
        for (int s = 0; s < total; ++s) found[s] = {begins[s], begins[s + 1], int64_t(pairs[s])};
        return found;
    }

    void score(const Columns& c, const std::vector<Segment>& segments, int grain) {
        int ticket = 0;
        const int count = int(segments.size());
        if (count > 0) launch(workers_, kernels_.short_or_mid, c, rules_, segments.data(), count, grain, &ticket);
    }

    void finish() {  // the pool, then everything that waited for it
        if (!pooled_.empty()) long_ones();
        for (auto& b : pending_) hand_out(*b);
        pending_.clear(), pooled_.clear(), pool_size_ = 0;
    }

    void long_ones() {
        Pack pool{int(pool_size_)};
        std::vector<unsigned long long> best(pool_size_);
        std::vector<int> pulled(pool_size_ / kTile + 1, 0), done(pool_size_ / kTile + 1, 0);
        const Columns c = pool.columns(best.data());
        for (auto& b : pending_)
            launch(int(b->pooled.size()), kernels_.collect, b->pack.columns(), pool.x.data(), pool.y.data(),
                   pool.span.data(), c, b->pooled.data());
        const std::vector<Task> tasks = schedule(pooled_, c.last, limits_);
        int ticket = 0;
        const Ready ready{pulled.data(), done.data()};
        launch(workers_, kernels_.long_ones, c, rules_, tasks.data(), int(tasks.size()), &ticket, ready);
        for (auto& b : pending_)
            launch(int(b->pooled.size()), kernels_.give_back, b->pack.columns(), c, b->pooled.data());
        ++counts_.pools, counts_.tasks += tasks.size();
        for (const Task& t : tasks) counts_.split += t.from >= 0 && t.tile == t.begin;
    }

    void hand_out(MicroBatch& b) {
        int at = 0;
        for (size_t r = b.first; r < b.stop; ++r) {
            const Read& read = reads_[r];
            const auto tags = b.capped.begin() + b.tag_of_read[r - b.first];
            const auto end = b.capped.begin() + b.tag_of_read[r - b.first + 1];
            if (std::any_of(tags, end, [](int cut) { return cut != 0; })) {
                dp(fastest(), read.anchors, read.n, params_, read.out);
                ++counts_.redone;
            } else {
                for (int64_t i = 0; i < read.n; ++i) {
                    read.out.score[i] = b.pack.score[at + i];
                    read.out.previous[i] = b.pack.back[at + i] > 0 ? i - b.pack.back[at + i] : -1;
                    fill_peak(read.out, i);
                }
            }
            at += int(read.n);
        }
    }

    const std::vector<Read>& reads_;
    Params q_, params_;
    const Kernels& kernels_;
    Limits limits_;
    int workers_;
    Buffer<int32_t> table_;
    Rules rules_;
    std::vector<std::unique_ptr<MicroBatch>> pending_;
    std::vector<Cut> pooled_;
    int64_t pool_size_ = 0;
    Counts counts_;
};

}  // namespace

Counts run_one_source(const std::vector<Read>& reads, const Params& params, const Kernels& kernels, const Limits& limits,
                      int workers) {
    return Run(reads, params, kernels, limits, workers).run();
}

}  // namespace chain
