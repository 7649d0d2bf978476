// Any processor: 16 floats in a plain array, left to the compiler.
#include "body.h"

namespace sparse_mlp {
namespace {

inline float as_float(uint32_t bits) {
    float v;
    std::memcpy(&v, &bits, 4);
    return v;
}

struct Sixteen {
    float v[kLanes];
    void clear() {
        for (float& f : v) f = 0;
    }
    void load(const float* p) { std::memcpy(v, p, sizeof v); }
    void store(float* p) const { std::memcpy(p, v, sizeof v); }
    static const uint32_t* line(const unsigned char* p) { return reinterpret_cast<const uint32_t*>(p); }
};

struct Single : Sixteen {
    static constexpr bool half = false;
    void add(const uint32_t* w, uint32_t x) {
        for (int i = 0; i < kLanes; ++i) v[i] += as_float(w[i]) * as_float(x);
    }
};

struct Pair : Sixteen {
    static constexpr bool half = true;
    void add(const uint32_t* w, uint32_t x) {
        for (int i = 0; i < kLanes; ++i) {
            v[i] += as_float(w[i] << 16) * as_float(x << 16);
            v[i] += as_float(w[i] & 0xffff0000u) * as_float(x & 0xffff0000u);
        }
    }
};

}  // namespace

void run_portable(const Call& c) { c.shape.half ? run<Pair>(c) : run<Single>(c); }
void route_portable(const Routing& c) { c.shape.half ? route<Pair>(c) : route<Single>(c); }

}  // namespace sparse_mlp
