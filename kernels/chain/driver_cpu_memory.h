// Memory of the double, and who used which bytes of it when: what a real driver would not say, or not at once.
//
// A moment is a step of a stream. Each operation carries a clock: of every stream the last step that it comes after.
// Two uses of the same bytes, one of them a write, must be ordered by clocks; bytes must be written before they are read.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "driver.h"

namespace chain {

using Clock = std::vector<int64_t>;  // by stream

inline void join(Clock& clock, const Clock& other) {
    clock.resize(std::max(clock.size(), other.size()), 0);
    for (size_t s = 0; s < other.size(); ++s) clock[s] = std::max(clock[s], other[s]);
}

struct Operation {
    std::string name;
    int stream;
    Clock clock;  // its own step included
    bool after(int other, int64_t step) const { return size_t(other) < clock.size() && clock[other] >= step; }
};

class Ranges {  // of bytes, ascending, apart from each other
  public:
    using Range = std::pair<size_t, size_t>;
    Ranges() = default;
    Ranges(size_t begin, size_t end) : all_{{begin, end}} {}
    explicit Ranges(std::vector<Range> any) : all_(std::move(any)) { tidy(); }

    void add(const Ranges& other) {
        if (covers(other)) return;
        all_.insert(all_.end(), other.all_.begin(), other.all_.end());
        tidy();
    }
    bool covers(const Ranges& other) const {
        return std::all_of(other.all_.begin(), other.all_.end(), [&](const Range& r) {
            const auto next = std::upper_bound(all_.begin(), all_.end(), Range{r.first, SIZE_MAX});
            return next != all_.begin() && std::prev(next)->second >= r.second;
        });
    }
    bool meets(const Ranges& other) const {
        for (size_t a = 0, b = 0; a < all_.size() && b < other.all_.size();) {
            if (std::max(all_[a].first, other.all_[b].first) < std::min(all_[a].second, other.all_[b].second)) return true;
            all_[a].second < other.all_[b].second ? ++a : ++b;
        }
        return false;
    }
    size_t end() const { return all_.empty() ? 0 : all_.back().second; }
    void clear() { all_.clear(); }

  private:
    void tidy() {
        std::sort(all_.begin(), all_.end());
        size_t kept = 0;
        for (const Range& r : all_) {
            if (r.first == r.second) continue;
            if (kept > 0 && r.first <= all_[kept - 1].second)
                all_[kept - 1].second = std::max(all_[kept - 1].second, r.second);
            else
                all_[kept++] = r;
        }
        all_.resize(kept);
    }
    std::vector<Range> all_;
};

enum class Access { read, write, update };  // update: reads what is there, then writes

struct Block {  // an allocation, on the device or pinned on the host
    struct Use {
        std::string name;
        int stream;
        int64_t step;
        Ranges where;
        bool writes;
    };
    char* data;
    size_t bytes;
    bool pinned;
    Ranges written;
    std::vector<Use> uses;  // that something to come may not be after
};

class Memory {
  public:
    ~Memory() {
        for (auto& [at, block] : blocks_) delete[] block.data;
    }

    void* add(size_t bytes, bool pinned) {
        char* data = new char[bytes];
        std::memset(data, kPoison, bytes);
        blocks_[data] = {data, bytes, pinned, {}, {}};
        return data;
    }
    void remove(Block& block) {
        delete[] block.data;
        blocks_.erase(block.data);
    }

    Block* find(const void* at) {  // the block that a pointer points into
        const auto next = blocks_.upper_bound(static_cast<const char*>(at));
        if (next == blocks_.begin()) return nullptr;
        Block& block = std::prev(next)->second;
        return static_cast<const char*>(at) < block.data + block.bytes ? &block : nullptr;
    }

    Block& expect(const void* at, bool pinned, const std::string& name) {
        Block* block = find(at);
        if (block == nullptr || block->pinned != pinned)
            throw DriverError(name + (pinned ? ": not pinned memory of the host" : ": not memory of the device, or released"));
        return *block;
    }

    // An operation uses ranges of bytes, counted from `at`. Uses that all to come is after (`floor`) are forgotten.
    void use(const Operation& by, const Operation& floor, const void* at, const std::vector<Ranges::Range>& counted,
             Access access, bool pinned = false) {
        if (counted.empty()) return;
        Block& block = expect(at, pinned, by.name);
        const size_t base = size_t(static_cast<const char*>(at) - block.data);
        std::vector<Ranges::Range> moved = counted;
        for (auto& range : moved) range.first += base, range.second += base;
        const Ranges ranges(std::move(moved));
        if (ranges.end() > block.bytes) throw DriverError(by.name + ": reaches past the end of an allocation");
        if (access != Access::write && !pinned && !block.written.covers(ranges))
            throw DriverError(by.name + ": reads memory that nothing has written");
        const bool writes = access != Access::read;
        for (const Block::Use& use : block.uses)
            if ((writes || use.writes) && !by.after(use.stream, use.step) && use.where.meets(ranges))
                throw DriverError(by.name + ": not ordered after " + use.name + ", which uses the same memory");
        if (writes) block.written.add(ranges);
        const auto past = [&](const Block::Use& use) { return floor.after(use.stream, use.step); };
        block.uses.erase(std::remove_if(block.uses.begin(), block.uses.end(), past), block.uses.end());
        if (by.stream >= 0) block.uses.push_back({by.name, by.stream, by.clock[by.stream], ranges, writes});
    }

    bool idle(const Block& block, const Operation& host) const {  // the host has awaited every use
        return std::all_of(block.uses.begin(), block.uses.end(),
                           [&](const Block::Use& use) { return host.after(use.stream, use.step); });
    }
    size_t size() const { return blocks_.size(); }

    static constexpr int kPoison = 0xa5;

  private:
    std::map<const char*, Block> blocks_;
};

}  // namespace chain
