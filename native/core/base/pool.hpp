// Worker threads that help a caller with a piece of work it is doing itself.
//
// The caller always works too and never waits for a worker to become free: helpers that have not begun
// when the caller is done are called off. So calls from any number of threads share the pool without
// deadlock, and a pool of no threads is merely slower.
//
// Thread-safe. Threads do not survive fork: a forked child leaves the pool behind and makes another.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace dataplane {

class Pool {
 public:
  // Threads are named `name`-0, `name`-1, …; the kernel shows 15 characters.
  explicit Pool(std::string name) : name_(std::move(name)) {}
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool();

  // Runs `work` in the calling thread and in up to `helpers` workers at once; returns when no thread
  // is in it. `work` must not throw, and must return early when there is nothing left to do.
  void run(unsigned helpers, const std::function<void()>& work);

  [[nodiscard]] std::size_t threads() const;

 private:
  struct Request {
    const std::function<void()>* work;
    unsigned wanted;  // helpers that have not begun
    unsigned active;  // helpers that are at it
  };

  void grow_locked(unsigned threads);
  void serve();

  const std::string name_;
  mutable std::mutex mutex_;
  std::condition_variable wanted_;  // a request was queued, or the pool is closing
  std::condition_variable left_;    // a helper has left its request
  std::deque<Request*> requests_;
  std::vector<std::thread> threads_;
  bool closing_ = false;
};

}  // namespace dataplane
