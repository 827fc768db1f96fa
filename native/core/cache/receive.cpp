#include "core/cache/receive.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <algorithm>
#include <cerrno>
#include <limits>

namespace dataplane {
namespace {

// Far above what one packet brings, far below what the kernel is willing to buffer.
constexpr std::size_t kWorthWakingBytes = 256U << 10;

// How much must have come before poll says so: without it, it does for every packet. Back to one
// byte in the end, or the next caller that waits for a short answer waits for ever.
class WakeMark {
 public:
  explicit WakeMark(int fd) noexcept : fd_(fd) {}
  WakeMark(const WakeMark&) = delete;
  WakeMark& operator=(const WakeMark&) = delete;
  ~WakeMark() { set(1); }

  void set(std::size_t bytes) noexcept {
    const int mark = static_cast<int>(std::min(bytes, kWorthWakingBytes));
    if (mark == mark_) return;
    mark_ = mark;
    // Only a hint: other kinds of sockets do not know it.
    (void)::setsockopt(fd_, SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof mark);
  }

 private:
  int fd_;
  int mark_ = 1;
};

}  // namespace

int Receiver::run() noexcept {
  using std::chrono::milliseconds;
  WakeMark mark(fd_);
  while (received_ < out_.size()) {
    const auto rest = out_.subspan(received_);
    const ssize_t got = ::recv(fd_, rest.data(), rest.size(), MSG_DONTWAIT);
    const int err = errno;
    if (got == 0) return 0;
    const auto now = std::chrono::steady_clock::now();
    if (got > 0) {
      received_ += static_cast<std::size_t>(got);
      last_ = now;
      continue;
    }
    if (err != EAGAIN && err != EWOULDBLOCK) return err;
    // Only here: less than the mark may have come while poll waited.
    const auto left = std::chrono::ceil<milliseconds>(last_ + pause_ - now);
    if (left <= milliseconds::zero()) return ETIMEDOUT;
    mark.set(rest.size());
    pollfd waiting{.fd = fd_, .events = POLLIN, .revents = 0};
    const auto wait = std::min<milliseconds::rep>(left.count(), std::numeric_limits<int>::max());
    if (::poll(&waiting, 1, static_cast<int>(wait)) < 0) return errno;
  }
  return 0;
}

}  // namespace dataplane
