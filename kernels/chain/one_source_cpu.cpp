// One CPU build of the kernels. CHAIN_BUILD names it (portable, avx2, avx512, shuffled); the flags make the difference.
#include "one_source_cpu.h"

#define CHAIN_GLUE(a, b) a##b
#define CHAIN_NAME(a, b) CHAIN_GLUE(a, b)
#define CHAIN_VARIANT CHAIN_NAME(chain_, CHAIN_BUILD)
#include "one_source.h"

namespace chain {

extern const Kernels CHAIN_NAME(kernels_, CHAIN_BUILD) = {
    CHAIN_VARIANT::range,     CHAIN_VARIANT::count_cuts, CHAIN_VARIANT::write_cuts, CHAIN_VARIANT::short_or_mid,
    CHAIN_VARIANT::long_ones, CHAIN_VARIANT::collect,    CHAIN_VARIANT::give_back,
};

#ifdef CHAIN_SHUFFLED
void set_order(int order) { CHAIN_VARIANT::order = order; }
#endif

}  // namespace chain
