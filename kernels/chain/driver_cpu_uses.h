// Which memory each kernel reads and writes, so that the double can check a launch as if it were the device.
#pragma once

#include <type_traits>

#include "driver_cpu_memory.h"
#include "one_source_types.h"

namespace chain {

using Spans = std::vector<Ranges::Range>;  // of indices

struct Uses {
    Memory& memory;
    const Operation& op;
    Operation floor;
    int blocks;

    template <class T>
    void operator()(const T* at, const Spans& items, Access access) const {
        Spans bytes = items;
        for (auto& range : bytes) range.first *= sizeof(T), range.second *= sizeof(T);
        memory.use(op, floor, at, bytes, access);
    }
    template <class T>
    void operator()(const T* at, size_t count, Access access) const {
        (*this)(at, Spans{{0, count}}, access);
    }
    void within(const Spans& items, int n) const {  // columns share an allocation: the next one would not be noticed
        for (const auto& range : items)
            if (range.first > range.second || range.second > size_t(n)) throw DriverError(op.name + ": a segment past the end");
    }
    void covers(int chunk, int n) const {
        if (int64_t(blocks) * chunk < n) throw DriverError(op.name + ": a grid too small for what it works on");
    }
};

// Pointers among the arguments of a launch, so that none of them may be released before it is done.
inline void pointers(const device::Columns& c, std::vector<const void*>& all) {
    for (const void* at : {(const void*)c.x, (const void*)c.last, (const void*)c.score, (const void*)c.best}) all.push_back(at);
}
inline void pointers(const device::Rules& r, std::vector<const void*>& all) { all.push_back(r.table); }
inline void pointers(const device::Ready& r, std::vector<const void*>& all) { all.push_back(r.pulled); }
template <class T>
void pointers(const T& value, std::vector<const void*>& all) {
    if constexpr (std::is_pointer_v<T>) all.push_back(value);
}

template <class Item>
Spans spans_of(const Item* items, int count) {
    Spans found;
    for (int k = 0; k < count; ++k) found.emplace_back(items[k].begin, items[k].end);
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    return found;
}

using Range = decltype(Kernels::range);
using CountCuts = decltype(Kernels::count_cuts);
using WriteCuts = decltype(Kernels::write_cuts);
using ShortOrMid = decltype(Kernels::short_or_mid);
using LongOnes = decltype(Kernels::long_ones);
using Collect = decltype(Kernels::collect);
using GiveBack = decltype(Kernels::give_back);

inline void uses_of(Range Kernels::*, const Uses& use, const device::Columns& c, const device::Rules&, int chunk, int* capped) {
    use.covers(chunk, c.n);
    for (const int* column : {c.x, c.span, c.tag}) use(column, c.n, Access::read);
    for (const int* column : {c.last, c.score, c.back}) use(column, c.n, Access::write);
    use(capped, c.tag[c.n - 1] + 1, Access::update);
}

inline void uses_of(CountCuts Kernels::*, const Uses& use, const device::Columns& c, int chunk, int* counts) {
    use.covers(chunk, c.n);
    use(c.last, c.n, Access::read);
    use(counts, use.blocks, Access::write);
}

inline void uses_of(WriteCuts Kernels::*, const Uses& use, const device::Columns& c, int chunk, const int* offsets,
                    int* begins_at, unsigned long long* pairs) {
    use.covers(chunk, c.n);
    use(c.last, c.n, Access::read);
    use(offsets, use.blocks, Access::read);
    size_t total = 1;
    for (int i = 1; i < c.n; ++i) total += c.last[i - 1] == i - 1;
    use(begins_at, total, Access::write);
    use(pairs, total, Access::update);
}

inline void uses_of(ShortOrMid Kernels::*, const Uses& use, const device::Columns& c, const device::Rules& r,
                    const device::Segment* segments, int count, int, int* ticket) {
    use(segments, count, Access::read);
    use(ticket, 1, Access::update);
    use(r.table, r.bw + 1, Access::read);
    const Spans spans = spans_of(segments, count);
    use.within(spans, c.n);
    for (const int* column : {c.x, c.y, c.span, (const int*)c.last}) use(column, spans, Access::read);
    for (const int* column : {c.score, c.back}) use(column, spans, Access::update);
}

inline void uses_of(LongOnes Kernels::*, const Uses& use, const device::Columns& c, const device::Rules& r,
                    const device::Task* tasks, int count, int* ticket, const device::Ready& ready) {
    use(tasks, count, Access::read);
    use(ticket, 1, Access::update);
    use(r.table, r.bw + 1, Access::read);
    const Spans spans = spans_of(tasks, count);
    use.within(spans, c.n);
    for (const int* column : {c.x, c.y, c.span, (const int*)c.last}) use(column, spans, Access::read);
    for (const int* column : {c.score, c.back}) use(column, spans, Access::update);
    Spans split, tiles;
    for (int k = 0; k < count; ++k) {
        if (tasks[k].from < 0) continue;
        const int end = std::min(tasks[k].end, tasks[k].tile + device::kTile), tile = tasks[k].tile / device::kTile;
        split.emplace_back(tasks[k].tile, end);
        tiles.emplace_back(tile, tile + 1);
    }
    use(c.best, split, Access::update);
    use(ready.pulled, tiles, Access::update);
    use(ready.done, tiles, Access::update);
}

inline void uses_of(Collect Kernels::*, const Uses& use, const device::Columns& batch, int* x, int* y, int* span,
                    const device::Columns& pool, const device::Segment* segments) {
    use(segments, use.blocks, Access::read);
    Spans home;
    for (int k = 0; k < use.blocks; ++k)
        home.emplace_back(segments[k].home, segments[k].home + segments[k].end - segments[k].begin);
    const Spans spans = spans_of(segments, use.blocks);
    use.within(home, batch.n), use.within(spans, pool.n);
    for (const int* column : {batch.x, batch.y, batch.span, (const int*)batch.last}) use(column, home, Access::read);
    for (const int* column : {x, y, span, pool.last, pool.score, pool.back}) use(column, spans, Access::write);
    use(pool.best, spans, Access::write);
}

inline void uses_of(GiveBack Kernels::*, const Uses& use, const device::Columns& batch, const device::Columns& pool,
                    const device::Segment* segments) {
    use(segments, use.blocks, Access::read);
    Spans home;
    for (int k = 0; k < use.blocks; ++k)
        home.emplace_back(segments[k].home, segments[k].home + segments[k].end - segments[k].begin);
    const Spans spans = spans_of(segments, use.blocks);
    use.within(home, batch.n), use.within(spans, pool.n);
    for (const int* column : {pool.score, pool.back}) use(column, spans, Access::read);
    for (const int* column : {batch.score, batch.back}) use(column, home, Access::write);
}

}  // namespace chain
