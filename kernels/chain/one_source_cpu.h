// The CPU builds of one_source.h, as tables of functions: one for each instruction set, one in a changed order.
#pragma once

#include "one_source_types.h"

namespace chain {

struct Kernels {
    void (*range)(int, device::Columns, device::Rules, int, int*);
    void (*count_cuts)(int, device::Columns, int, int*);
    void (*write_cuts)(int, device::Columns, int, const int*, int*, unsigned long long*);
    void (*short_or_mid)(int, device::Columns, device::Rules, const device::Segment*, int, int, int*);
    void (*long_ones)(int, device::Columns, device::Rules, const device::Task*, int, int*, device::Ready);
    void (*collect)(int, device::Columns, int*, int*, int*, device::Columns, const device::Segment*);
    void (*give_back)(int, device::Columns, device::Columns, const device::Segment*);
};

extern const Kernels kernels_portable, kernels_shuffled;
#ifdef CHAIN_X86
extern const Kernels kernels_avx2, kernels_avx512;
#endif
void set_order(int order);  // of the shuffled build: 1 backwards, 2 and up scattered by this seed

}  // namespace chain
