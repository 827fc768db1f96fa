#include "core/base/pool.hpp"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <string>
#include <system_error>

namespace dataplane {
namespace {

// Signals belong to the threads of the host program; workers that inherit this mask never take one.
class AllSignalsBlocked {
 public:
  AllSignalsBlocked() noexcept {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  AllSignalsBlocked(const AllSignalsBlocked&) = delete;
  AllSignalsBlocked& operator=(const AllSignalsBlocked&) = delete;
  ~AllSignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_{};
};

}  // namespace

Pool::~Pool() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wanted_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Pool::run(unsigned helpers, const std::function<void()>& work) {
  if (helpers == 0) return work();
  Request request{&work, helpers, 0};
  {
    const std::lock_guard lock(mutex_);
    grow_locked(helpers);
    requests_.push_back(&request);
  }
  for (unsigned i = 0; i < helpers; ++i) wanted_.notify_one();
  work();
  std::unique_lock lock(mutex_);
  std::erase(requests_, &request);
  left_.wait(lock, [&request] { return request.active == 0; });
}

std::size_t Pool::threads() const {
  const std::lock_guard lock(mutex_);
  return threads_.size();
}

void Pool::grow_locked(unsigned threads) {
  const AllSignalsBlocked blocked;
  while (threads_.size() < threads) {
    try {
      threads_.emplace_back([this] { serve(); });
    } catch (const std::system_error&) {
      return;  // the system allows no more threads: the caller does the work with those there are
    }
    const std::string name = name_ + "-" + std::to_string(threads_.size() - 1);
    pthread_setname_np(threads_.back().native_handle(), name.c_str());
  }
}

void Pool::serve() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wanted_.wait(lock, [this] { return closing_ || !requests_.empty(); });
    if (closing_) return;
    Request& request = *requests_.front();
    ++request.active;
    if (--request.wanted == 0) requests_.pop_front();
    lock.unlock();
    (*request.work)();
    lock.lock();
    if (--request.active == 0) left_.notify_all();
  }
}

}  // namespace dataplane
