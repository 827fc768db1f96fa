// Receiving from a socket into memory of the caller's choice, whole pieces at a time.
//
// A client that hands out what each system call brought makes its caller copy it, and wakes it (in
// Python: makes it wait for the interpreter) some twenty times for a block of 4 MiB. Here one call
// brings all of it.
//
// Thread-safe for different sockets.
#pragma once

#include <chrono>
#include <cstddef>
#include <span>

#include "core/net/waiting.hpp"

namespace dataplane {

// The filling of one buffer from a connected socket, which may block or not.
class Receiver {
 public:
  Receiver(int fd, std::span<std::byte> out, std::chrono::milliseconds pause) noexcept
      : fd_(fd), out_(out), waiter_(fd, pause) {}

  // Receive until the buffer is full or the other side has ended. Returns 0, ETIMEDOUT when nothing
  // came for as long as the pause, EINTR when a signal came (call again to go on: the pause goes on,
  // too), or another errno. SO_RCVLOWAT is 1 afterwards.
  [[nodiscard]] int run() noexcept;

  // How many bytes have come.
  [[nodiscard]] std::size_t received() const noexcept { return received_; }

 private:
  int fd_;
  std::span<std::byte> out_;
  Waiter waiter_;
  std::size_t received_ = 0;
};

}  // namespace dataplane
