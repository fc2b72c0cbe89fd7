// Writes that go past the caches: what a large map holds is not needed again before it would have
// been evicted, and a line that is written whole need not be read first.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace sssd::boxes_cpu::SSSD_ISA {
namespace {

constexpr int64_t kStreamBytes = 8 * 1024 * 1024;  // maps from this size go past the caches
constexpr int64_t kLine = 64;

inline void stream_line(char* to, const char* from) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from));
#elif defined(__SSE2__)
  for (int part = 0; part < 4; ++part)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to) + part,
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(from) + part));
#else
  std::memcpy(to, from, kLine);
#endif
}

// memcpy; call finish_stream before another thread may read.
inline void stream_copy(void* to, const void* from, int64_t bytes) {
  char* out = static_cast<char*>(to);
  const char* in = static_cast<const char*>(from);
  const int64_t head = (kLine - reinterpret_cast<uintptr_t>(out) % kLine) % kLine;
  if (bytes < head + kLine) {
    std::memcpy(out, in, bytes);
    return;
  }
  std::memcpy(out, in, head);
  int64_t at = head;
  for (; at + kLine <= bytes; at += kLine) stream_line(out + at, in + at);
  std::memcpy(out + at, in + at, bytes - at);
}

inline void finish_stream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace
}  // namespace sssd::boxes_cpu::SSSD_ISA
