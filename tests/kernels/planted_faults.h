// Which of the faults that test_sanitizers.py plants is on: FAULT=number in the environment.
#pragma once
#include <cstdlib>

inline const int planted_fault = [] {
  const char* number = std::getenv("FAULT");
  return number ? std::atoi(number) : -1;
}();
