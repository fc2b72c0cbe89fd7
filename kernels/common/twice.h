// Two vectors worked on side by side: while the processor waits for the result of one operation, it
// has the same of another vector to do. A functor written for one vector takes two unchanged.
#pragma once

#include "kernels/common/lanes.h"

namespace sssd::SSSD_ISA {

template <class M>
struct TwiceMask {
  M first, second;
};

template <class V>
struct Twice {
  using Scalar = typename V::Scalar;
  V first, second;

  Twice() = default;
  SSSD_INLINE Twice(V x, V y) : first(x), second(y) {}
  template <class W, class = decltype(V(std::declval<W>()))>
  SSSD_INLINE Twice(W both) : first(V(both)), second(V(both)) {}
  SSSD_INLINE Twice(V both) : first(both), second(both) {}  // a row's number, to its elements
  SSSD_INLINE explicit Twice(Scalar x) : Twice(V(x)) {}

  friend SSSD_INLINE Twice operator+(Twice x, Twice y) {
    return {x.first + y.first, x.second + y.second};
  }
  friend SSSD_INLINE Twice operator-(Twice x, Twice y) {
    return {x.first - y.first, x.second - y.second};
  }
  friend SSSD_INLINE Twice operator*(Twice x, Twice y) {
    return {x.first * y.first, x.second * y.second};
  }
  SSSD_INLINE Twice operator-() const { return {-first, -second}; }
  SSSD_INLINE auto operator<(Twice y) const { return both(first < y.first, second < y.second); }
  SSSD_INLINE auto operator>(Twice y) const { return both(first > y.first, second > y.second); }
  SSSD_INLINE auto operator==(Twice y) const { return both(first == y.first, second == y.second); }

 private:
  template <class M>
  static SSSD_INLINE TwiceMask<M> both(M x, M y) {
    return {x, y};
  }
};

template <class V, class M>
SSSD_INLINE Twice<V> select(TwiceMask<M> take, Twice<V> x, Twice<V> y) {
  return {select(take.first, x.first, y.first), select(take.second, x.second, y.second)};
}
template <class V>
SSSD_INLINE Twice<V> fast_abs(Twice<V> x) {
  return {fast_abs(x.first), fast_abs(x.second)};
}
template <class V>
SSSD_INLINE Twice<V> round_whole(Twice<V> x) {
  return {round_whole(x.first), round_whole(x.second)};
}
template <class V>
SSSD_INLINE Twice<V> exp2_whole(Twice<V> n) {
  return {exp2_whole(n.first), exp2_whole(n.second)};
}
#ifdef __AVX512F__
template <class V>
SSSD_INLINE Twice<V> smaller(Twice<V> x, Twice<V> y) {
  return {smaller(x.first, y.first), smaller(x.second, y.second)};
}
template <class V>
SSSD_INLINE Twice<V> fraction(Twice<V> x) {
  return {fraction(x.first), fraction(x.second)};
}
template <class V>
SSSD_INLINE Twice<V> scale_by_floor(Twice<V> y, Twice<V> x) {
  return {scale_by_floor(y.first, x.first), scale_by_floor(y.second, x.second)};
}
#endif
SSSD_INLINE Twice<Lanes<double>> fast_exp2(Twice<Lanes<double>> x) {
  return {fast_exp2(x.first), fast_exp2(x.second)};
}
SSSD_INLINE Decay<Twice<Lanes<double>>> decay(Twice<Lanes<double>> t) {
  const auto x = decay(t.first), y = decay(t.second);
  return {{x.value, y.value}, {x.rest, y.rest}};
}
SSSD_INLINE Midpoint<Twice<Lanes<double>>> midpoint(Twice<Lanes<double>> v) {
  const auto x = midpoint(v.first), y = midpoint(v.second);
  return {{x.log, y.log}, {x.above, y.above}, {x.gap, y.gap}};
}

template <class V>
SSSD_INLINE void accumulate(V& sum, Twice<V> x) {
  sum = sum + (x.first + x.second);
}

}  // namespace sssd::SSSD_ISA
