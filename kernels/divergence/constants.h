// What the members of the family share: the constants of a call, sums and gradients.
#pragma once

#include "kernels/divergence/divergence.h"

namespace sssd::divergence {

// What depends on the call and the level only. S is the scalar the kernel computes in.
template <class S>
struct Constants {
  S scale;           // softmax: log2(e) / temperature
  S gradient_scale;  // what every gradient of the member is multiplied by
  S eps;
  S variance;  // standardize: 1 / count, or 1 / (count - 1) unbiased
  bool centre, normalized, cosine, eps_inside;

  SSSD_HOST_DEVICE Constants(const Settings& settings, int64_t row_length, double gradient) {
    scale = S(1.4426950408889634074 / settings.temperature);
    gradient_scale = S(gradient);
    cosine = settings.measure == Measure::cosine;
    eps = S(settings.eps);
    centre = settings.normalize == Normalize::standardize;
    normalized = centre || cosine || settings.normalize == Normalize::l2;
    eps_inside = !settings.unbiased;
    variance = S(settings.unbiased ? 1.0 / double(row_length > 1 ? row_length - 1 : 1)
                                   : 1.0 / double(row_length > 0 ? row_length : 1));
  }
};

constexpr double kLn2 = 0.69314718055994530942;

template <class V>
SSSD_HOST_DEVICE inline V constant(double x) {
  return V(scalar_of_t<V>(x));
}
template <class V>
SSSD_HOST_DEVICE inline V infinity() {
  return constant<V>(HUGE_VAL);
}

template <class V>
struct Gradients {
  V a, b;
};

// Sums a row: over its elements of a and b, and (softmax) of p - q, which is 0 but for rounding.
template <class V>
struct RowSums {
  V a = constant<V>(0), b = constant<V>(0), third = constant<V>(0);
  SSSD_HOST_DEVICE void add(const RowSums& other) {
    a = a + other.a, b = b + other.b, third = third + other.third;
  }
  template <class F>  // f(V&) on each of them, as a reduction across threads or lanes needs
  SSSD_HOST_DEVICE void each(F&& f) {
    f(a), f(b), f(third);
  }
};

}  // namespace sssd::divergence
