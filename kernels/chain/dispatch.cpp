// Which loop runs: decided by the processor at run time.
#include <new>

#include "types.h"

namespace chain {

void out_of_memory() { throw std::bad_alloc(); }

#ifdef CHAIN_X86  // set by the build where avx2.cpp and avx512.cpp are part of it

bool has(Backend backend) {
    __builtin_cpu_init();
    const auto avx2 = [] {
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("lzcnt");
    };
    switch (backend) {
        case Backend::scalar: return true;
        case Backend::avx2:
        case Backend::avx2_every_pair: return avx2();
        default:
            return avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512vl");
    }
}

void dp(Backend backend, const Anchor* a, int64_t n, const Params& params, Scores out) {
    switch (backend) {
        case Backend::scalar: return dp_scalar(a, n, params, out);
        case Backend::avx2: return dp_avx2(a, n, params, out, true);
        case Backend::avx2_every_pair: return dp_avx2(a, n, params, out, false);
        case Backend::avx512: return dp_avx512(a, n, params, out, true);
        case Backend::avx512_every_pair: return dp_avx512(a, n, params, out, false);
    }
}

#else

bool has(Backend backend) { return backend == Backend::scalar; }
void dp(Backend, const Anchor* a, int64_t n, const Params& params, Scores out) { dp_scalar(a, n, params, out); }

#endif

}  // namespace chain
