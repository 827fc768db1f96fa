// One object of a class per process, made at its first use.
//
// A forked child leaves its copy behind, which has locks in an unknown state and no threads, and
// makes its own. The object is never destroyed, so that no thread is joined at exit. Two threads of
// a free-threaded interpreter may both make one; the first to store its own wins.
#pragma once

#include <pthread.h>

#include <atomic>
#include <memory>

namespace dataplane::bindings {

template <typename T>
class PerProcess {
 public:
  [[nodiscard]] static T& get() {
    T* current = slot().load();
    if (current != nullptr) return *current;
    auto made = std::make_unique<T>();
    return slot().compare_exchange_strong(current, made.get()) ? *made.release() : *current;
  }

  // To be called once, when the module is made.
  static void forget_after_fork() {
    pthread_atfork(nullptr, nullptr, [] { slot().store(nullptr); });
  }

 private:
  static std::atomic<T*>& slot() {
    static std::atomic<T*> slot{nullptr};
    return slot;
  }
};

}  // namespace dataplane::bindings
