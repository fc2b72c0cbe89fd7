// exp, exp2 and log2 of double as glibc had them before 2.29, and still has: the later versions
// leave errno alone, which nothing here reads, and would keep a library from loading in glibc 2.28.
#pragma once

#include <cmath>  // defines __GLIBC__

#if defined(__GLIBC__) && defined(__x86_64__) && !defined(__CUDACC__)
__asm__(".symver exp,exp@GLIBC_2.2.5");
__asm__(".symver exp2,exp2@GLIBC_2.2.5");
__asm__(".symver log2,log2@GLIBC_2.2.5");
#endif
