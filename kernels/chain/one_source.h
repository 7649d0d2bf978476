// The chaining kernels, one text for CUDA, HIP and the CPU.
//
// A kernel is written for a block of threads: FOR is a loop over independent bodies, SYNC the barrier between loops,
// ONE what a single thread does, WARP a loop of the first kSub threads with WARP_SYNC between rounds. Nothing private
// to a thread lives across a barrier, so on a CPU the same text is plain loops. Penalties come from a table of
// integers: no result depends on how a device rounds.
//
//   range      last anchor that each anchor reaches (same read, reference, strand; max_dist_x; max_iter)
//   cut        a segment begins wherever no earlier anchor reaches: segments are independent
//   short, mid one block works on a segment, tile by tile
//   collect    segments with much work, of several micro-batches, are pooled
//   long       persistent blocks take tasks by an atomic ticket, longest first; a giant segment is many tasks:
//              for each tile the pulls from older tiles (any order, any block), then the tile itself
//   give_back  results of the pool return to their micro-batches
//
// Within a tile of kTile anchors, kSub of them are scored by one warp, then push to the rest of the tile at once: two
// block barriers for kSub anchors instead of one for each.
#pragma once

#include "one_source_device.h"

namespace CHAIN_VARIANT {

using namespace chain::device;

// A tile of targets, or a piece of sources, in the block's own memory.
struct Tile {
    int x[kTile], y[kTile], span[kTile], last[kTile], score[kTile], back[kTile];
};

DEVICE void load(const Columns& c, Tile& tile, int at, int count) {
    FOR(t, count) {
        tile.x[t] = c.x[at + t], tile.y[t] = c.y[at + t], tile.span[t] = c.span[at + t], tile.last[t] = c.last[at + t];
        tile.score[t] = c.score[at + t], tile.back[t] = c.back[at + t];
    }
}

// Offers source (of score, position and span as given) to target t of a tile; `distance` is how far back it lies.
DEVICE void offer(const Rules& r, Tile& to, int t, int x, int y, int span, int score, int distance) {
    const int dq = to.y[t] - y, dr = to.x[t] - x;
    const int gap = dr - dq, dd = gap < 0 ? -gap : gap, step = dr < dq ? dr : dq;
    const bool fits = (dq > 0) & (dq <= r.max_q) & (dr != 0) & (dd <= r.bw);
    const int reached = (span < step ? span : step) + score - r.table[fits ? dd : 0];
    const bool better = fits & (reached >= to.score[t]) & (reached > to.span[t]);  // of equals the later, hence nearer
    to.score[t] = better ? reached : to.score[t];
    to.back[t] = better ? distance : to.back[t];
}

// Every source of a piece at `from`, oldest first, offered to the targets of the tile at `at` that it reaches.
DEVICE void pull(const Rules& r, Tile& to, int at, int count, const Tile& source, int from, int sources) {
    SWEEP(i, 0, sources, t, 0, smaller(count, source.last[i] + 1 - at),
          offer(r, to, t, source.x[i], source.y[i], source.span[i], source.score[i], at + t - (from + i)))
}

// The anchors of a tile among themselves.
DEVICE void within(const Rules& r, Tile& tile, int at, int count) {
    for (int sub = 0; sub < count; sub += kSub) {
        const int stop = smaller(sub + kSub, count);
        for (int i = sub; i < stop; ++i) {
            WARP(t, i + 1, smaller(stop, tile.last[i] + 1 - at),
                 offer(r, tile, t, tile.x[i], tile.y[i], tile.span[i], tile.score[i], t - i))
            WARP_SYNC;
        }
        SYNC;
        SWEEP(i, sub, stop, t, stop, smaller(count, tile.last[i] + 1 - at),
              offer(r, tile, t, tile.x[i], tile.y[i], tile.span[i], tile.score[i], t - i))
        SYNC;
    }
}

DEVICE void store(Columns& c, const Tile& tile, int at, int count) {
    FOR(t, count) { c.score[at + t] = tile.score[t], c.back[at + t] = tile.back[t]; }
}

// First anchor of [begin, at) that reaches `at`; last[] never descends within a segment.
DEVICE int first_reaching(const Columns& c, int begin, int at) {
    int low = begin, high = at;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (c.last[middle] >= at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

DEVICE void score_segment(Columns& c, const Rules& r, Tile& to, Tile& source, int begin, int end) {
    for (int at = begin; at < end; at += kTile) {
        const int count = smaller(kTile, end - at);
        load(c, to, at, count);
        for (int from = first_reaching(c, begin, at); from < at; from += kTile) {
            const int sources = smaller(kTile, at - from);
            load(c, source, from, sources);
            SYNC;
            pull(r, to, at, count, source, from, sources);
            SYNC;
        }
        SYNC;
        within(r, to, at, count);
        store(c, to, at, count);
        SYNC;
    }
}

KERNEL(range, Columns c, Rules r, int chunk, int* capped) {
    const int begin = BLOCK * chunk;
    FOR(t, smaller(chunk, c.n - begin)) {
        const int i = begin + t;
        int low = i, step = 1;  // `low` is in reach; strides grow, then halve
        const auto reaches = [&](int j) { return j < c.n && c.tag[j] == c.tag[i] && c.x[j] - c.x[i] <= r.max_dist_x; };
        for (; reaches(low + step); step *= 2) low += step;
        for (; step > 0; step /= 2)
            if (reaches(low + step)) low += step;
        if (low - i > r.max_iter) low = i + r.max_iter, mark(&capped[c.tag[i]]);
        c.last[i] = low;
        c.score[i] = c.span[i], c.back[i] = 0;
    }
}

DEVICE bool begins(const Columns& c, int i) { return i == 0 || c.last[i - 1] == i - 1; }

// How many segments begin in each of the kTile parts of a chunk, which lies from `begin` to `stop`.
DEVICE void count_parts(const Columns& c, int begin, int stop, int part, int* sums) {
    FOR(t, kTile) {
        int sum = 0;
        for (int i = begin + t * part; i < smaller(stop, begin + (t + 1) * part); ++i) sum += begins(c, i);
        sums[t] = sum;
    }
}

// How many segments begin in each chunk.
KERNEL(count_cuts, Columns c, int chunk, int* counts) {
    SHARED int sums[kTile];
    const int begin = BLOCK * chunk, stop = smaller(c.n, begin + chunk), part = (chunk + kTile - 1) / kTile;
    count_parts(c, begin, stop, part, sums);
    SYNC;
    ONE {
        int sum = 0;
        for (int t = 0; t < kTile; ++t) sum += sums[t];
        counts[BLOCK] = sum;
    }
}

// Where each segment begins, and how many pairs of anchors it holds. `offsets`: segments before each chunk.
KERNEL(write_cuts, Columns c, int chunk, const int* offsets, int* begins_at, unsigned long long* pairs) {
    SHARED int sums[kTile];
    const int begin = BLOCK * chunk, stop = smaller(c.n, begin + chunk), part = (chunk + kTile - 1) / kTile;
    count_parts(c, begin, stop, part, sums);
    SYNC;
    FOR(t, kTile) {
        int segment = offsets[BLOCK] - 1;  // the one that anchor i belongs to
        for (int k = 0; k < t; ++k) segment += sums[k];
        unsigned long long sum = 0;
        for (int i = begin + t * part; i < smaller(stop, begin + (t + 1) * part); ++i) {
            if (begins(c, i)) {
                if (sum > 0) atomic_add(&pairs[segment], sum);
                sum = 0;
                begins_at[++segment] = i;
            }
            sum += (unsigned long long)(c.last[i] - i);
        }
        if (sum > 0) atomic_add(&pairs[segment], sum);
    }
}

// Segments taken `grain` at a time.
KERNEL(short_or_mid, Columns c, Rules r, const Segment* segments, int count, int grain, int* ticket) {
    SHARED Tile to, source;
    SHARED int first;
    for (;;) {
        ONE { first = atomic_add(ticket, grain); }
        SYNC;
        const int begin = first;
        if (begin >= count) return;
        for (int s = begin; s < smaller(count, begin + grain); ++s)
            score_segment(c, r, to, source, segments[s].begin, segments[s].end);
        SYNC;
    }
}

// One tile of a split segment pulls from another: the best of all pulls is kept, in whatever order they come.
DEVICE void task_pull(Columns& c, const Rules& r, Tile& to, Tile& source, const Task& task, Ready ready) {
    const int at = task.tile, count = smaller(kTile, task.end - at);
    ONE { await(&ready.done[task.from / kTile], 1); }
    SYNC;
    load(c, to, at, count);
    load(c, source, task.from, kTile);
    SYNC;
    FOR(t, count) { to.score[t] = to.span[t], to.back[t] = 0; }
    SYNC;
    pull(r, to, at, count, source, task.from, kTile);
    SYNC;
    FOR(t, count) {
        if (to.back[t] > 0) atomic_max(&c.best[at + t], (unsigned long long)to.score[t] << 32 | ~(unsigned)to.back[t]);
    }
    SYNC;
    ONE { publish(&ready.pulled[at / kTile], 1); }
}

DEVICE void task_tile(Columns& c, const Rules& r, Tile& to, const Task& task, Ready ready) {
    const int at = task.tile, count = smaller(kTile, task.end - at);
    ONE { await(&ready.pulled[at / kTile], task.waits); }
    SYNC;
    load(c, to, at, count);
    SYNC;
    FOR(t, count) {
        const unsigned long long best = fresh(&c.best[at + t]);
        if (best != 0) to.score[t] = int(best >> 32), to.back[t] = int(~(unsigned)best);
    }
    SYNC;
    within(r, to, at, count);
    store(c, to, at, count);
    SYNC;
    ONE { publish(&ready.done[at / kTile], 1); }
}

// Persistent: as many blocks as the device holds, each takes the next task until there is none. A task awaits only
// tasks before it in the list, and whoever took those is running: no block waits for ever.
KERNEL(long_ones, Columns c, Rules r, const Task* tasks, int count, int* ticket, Ready ready) {
    SHARED Tile to, source;
    SHARED int mine;
    for (;;) {
        ONE { mine = atomic_add(ticket, 1); }
        SYNC;
        if (mine >= count) return;
        const Task task = tasks[mine];
        if (task.from < 0)
            score_segment(c, r, to, source, task.begin, task.end);
        else if (task.from == task.tile)
            task_tile(c, r, to, task, ready);
        else
            task_pull(c, r, to, source, task, ready);
        SYNC;
    }
}

// Copies segments between a micro-batch and the pool; last[] is counted from the segment's own place.
KERNEL(collect, Columns batch, int* x, int* y, int* span, Columns pool, const Segment* segments) {
    const Segment s = segments[BLOCK];
    FOR(t, s.end - s.begin) {
        x[s.begin + t] = batch.x[s.home + t], y[s.begin + t] = batch.y[s.home + t];
        span[s.begin + t] = batch.span[s.home + t];
        pool.last[s.begin + t] = batch.last[s.home + t] - s.home + s.begin;
        pool.score[s.begin + t] = batch.span[s.home + t];
        pool.back[s.begin + t] = 0, pool.best[s.begin + t] = 0;
    }
}

KERNEL(give_back, Columns batch, Columns pool, const Segment* segments) {
    const Segment s = segments[BLOCK];
    FOR(t, s.end - s.begin) {
        batch.score[s.home + t] = pool.score[s.begin + t], batch.back[s.home + t] = pool.back[s.begin + t];
    }
}

}  // namespace CHAIN_VARIANT
