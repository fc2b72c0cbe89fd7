// What a source that is compiled once for each instruction set needs: SSSD_ISA names the set, and
// is the namespace of such code, so that the linker cannot hand what was built for AVX-512 to a
// processor without it.
#pragma once

#ifndef SSSD_ISA
#define SSSD_ISA baseline
#endif
#define SSSD_INLINE inline __attribute__((always_inline))
