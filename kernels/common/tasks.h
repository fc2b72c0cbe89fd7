// Shares the tasks of a call out to threads: the one way in which CPU kernels run in parallel.
#pragma once

#include <cstdint>

#include "kernels/common/inline.h"

namespace sssd {

// The caller's threads: runs body(begin, end, context) over [0, tasks) in any number of pieces, in
// any order. How a call is shared out never changes a result.
using ParallelFor = void (*)(int64_t tasks, void (*body)(int64_t, int64_t, void*), void* context);

namespace SSSD_ISA {

// Backward begins where forward ended: that is still in cache.
enum class Order { ascending, descending };

// Each thread calls new_body() once, for a body(begin, end) with the memory it works in, and that
// over runs of tasks. Tasks differ in size, and threads in speed: a thread takes half of its share
// of what is left, time and again. So it works on neighbours, which share pages of memory, and none
// is waited for long.
template <class NewBody>
void run_tasks(ParallelFor parallel, int64_t tasks, Order order, const NewBody& new_body) {
  if (tasks == 0) return;
  struct Queue {
    const NewBody& new_body;
    const int64_t tasks;
    const Order order;
    int64_t next;
  } queue{new_body, tasks, order, 0};
  auto work = [](int64_t begin, int64_t end, void* context) {
    Queue& queue = *static_cast<Queue*>(context);
    const int64_t tasks = queue.tasks, share = end - begin;
    int64_t first = __atomic_load_n(&queue.next, __ATOMIC_RELAXED);
    if (first >= tasks) return;
    auto body = queue.new_body();
    while (first < tasks) {
      const int64_t half = share * (tasks - first) / tasks / 2, count = half > 1 ? half : 1;
      if (!__atomic_compare_exchange_n(&queue.next, &first, first + count, true, __ATOMIC_RELAXED,
                                       __ATOMIC_RELAXED))
        continue;  // `first` is what another thread has left
      const int64_t from = queue.order == Order::ascending ? first : tasks - first - count;
      body(from, from + count);
      first = __atomic_load_n(&queue.next, __ATOMIC_RELAXED);
    }
  };
  parallel(tasks, work, &queue);
}

}  // namespace SSSD_ISA
}  // namespace sssd
