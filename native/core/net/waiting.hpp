// Waiting for a socket: pauses with a limit, and how much must have come before a wait ends.
//
// Thread-safe for different sockets.
#pragma once

#include <chrono>
#include <cstddef>

namespace dataplane {

// The low-water mark of a socket (SO_RCVLOWAT) while bytes are waited for: without it, poll says so
// for every packet. Back to one byte in the end, or whoever next waits for a short message waits for
// ever.
class WakeMark {
 public:
  explicit WakeMark(int fd) noexcept : fd_(fd) {}
  WakeMark(const WakeMark&) = delete;
  WakeMark& operator=(const WakeMark&) = delete;
  ~WakeMark() { set(1); }

  // Ask for so many bytes, or as many as are worth waking up for. They must be sure to come.
  void set(std::size_t bytes) noexcept;

 private:
  int fd_;
  int mark_ = 1;
};

// A limit on the time in which a socket makes no progress.
class Waiter {
 public:
  Waiter(int fd, std::chrono::milliseconds pause) noexcept
      : fd_(fd), pause_(pause), last_(std::chrono::steady_clock::now()) {}

  // Begin the pause anew. Never called, the pause is the time allowed for everything.
  void progressed() noexcept { last_ = std::chrono::steady_clock::now(); }

  // Wait for events of poll. Returns 0 when there may be some (look again, also after a wait that ran
  // out: less than the mark may have come), ETIMEDOUT when the pause is over, EINTR when a signal
  // came (wait again to go on: the pause goes on, too), or another errno.
  [[nodiscard]] int wait(short events) noexcept;

 private:
  int fd_;
  std::chrono::milliseconds pause_;
  std::chrono::steady_clock::time_point last_;  // of progress
};

}  // namespace dataplane
