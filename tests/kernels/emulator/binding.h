// What a test sets and reads of the machine that runs CUDA sources on the CPU, for Python.
#pragma once
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>

#include "tests/kernels/emulator/host_cuda.h"

inline void throw_if(const char* error) {
  if (error) throw std::runtime_error(error);
}

inline void bind_emulator(pybind11::module_& module) {
  namespace py = pybind11;
  using namespace py::literals;
  module.attr("chips") = [] {
    py::dict chips;
    for (const host_cuda::Chip& chip : host_cuda::kChips)
      chips[py::int_(chip.capability)] = chip.shared_bytes;
    return chips;
  }();
  // `shared` and `cluster` where they are to be less than the chip's, `ptx` where its code comes
  // from PTX for an older one. `resources(mangled kernel)`
  // gives its registers and most threads. `stale`: a call of somebody else's has failed and left
  // its error. `goes_on`: kernels keep the shared memory that they asked for. Only devices below 64
  // are remembered between calls.
  module.def(
      "play",
      [](int chip, int shared, int cluster, int ptx, int device,
         const std::set<std::string>& refused,
         std::function<std::pair<int, int>(const std::string&)> resources, bool reverse,
         bool counting, bool stale, bool goes_on) {
        host_cuda::Settings settings;
        for (const host_cuda::Chip& known : host_cuda::kChips)
          if (known.capability == chip) settings.chip = known;
        if (shared) settings.chip.shared_bytes = shared;
        if (cluster) settings.chip.cluster = cluster;
        settings.ptx = ptx;
        settings.device = device, settings.refused = refused, settings.counting = counting;
        settings.goes_on = goes_on;
        if (resources)
          settings.resources = [resources](const std::string& mangled) {
            const auto [registers, threads] = resources(mangled);
            return host_cuda::Resources{registers, threads};
          };
        if (reverse) settings.order = host_cuda::BlockOrder::kReverse;
        host_cuda::play(settings);
        cudaLaunchConfig_t config{};
        config.blockDim = 0;
        if (stale) static_cast<void>(cudaLaunchKernelEx(&config, +[] {}));
      },
      py::kw_only(), "chip"_a = 90, "shared"_a = 0, "cluster"_a = 0, "ptx"_a = 0, "device"_a = 64,
      "refused"_a = std::set<std::string>{}, "resources"_a = nullptr, "reverse"_a = false,
      "counting"_a = false, "stale"_a = false, "goes_on"_a = false);
  // No function of Python's is left when it ends.
  py::module_::import("atexit").attr("register")(py::cpp_function([] { host_cuda::play({}); }));
  module.def("traffic", [] {
    const host_cuda::Traffic& t = host_cuda::traffic;
    return py::dict("load_bytes"_a = t.load_bytes, "load_accesses"_a = t.load_accesses,
                    "load_sectors"_a = t.load_sectors, "load_ideal"_a = t.load_ideal,
                    "store_bytes"_a = t.store_bytes, "store_accesses"_a = t.store_accesses,
                    "store_sectors"_a = t.store_sectors, "store_ideal"_a = t.store_ideal,
                    "launches"_a = t.launches, "barriers"_a = t.barriers);
  });
  // (function, mangled kernel, threads, bytes of dynamic shared memory, blocks of a cluster)
  module.def("calls", [] {
    py::list calls;
    for (const host_cuda::Call& call : host_cuda::calls)
      calls.append(py::make_tuple(call.function, call.kernel, call.threads, call.shared_bytes,
                                  call.cluster));
    return calls;
  });
  // The message of the error that a failed call left, or none.
  module.def("last_error", [] {
    const cudaError_t error = cudaGetLastError();
    return std::string(error == cudaSuccess ? "" : cudaGetErrorString(error));
  });
}
