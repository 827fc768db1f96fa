#include "core/net/waiting.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <limits>

namespace dataplane {
namespace {

// Far above what one packet brings, far below what the kernel is willing to buffer.
constexpr std::size_t kWorthWakingBytes = 256U << 10;

}  // namespace

void WakeMark::set(std::size_t bytes) noexcept {
  const int mark = static_cast<int>(std::min(bytes, kWorthWakingBytes));
  if (mark == mark_) return;
  mark_ = mark;
  // Only a hint: other kinds of sockets do not know it.
  (void)::setsockopt(fd_, SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof mark);
}

int Waiter::wait(short events) noexcept {
  using std::chrono::milliseconds;
  const auto now = std::chrono::steady_clock::now();
  const auto left = std::chrono::ceil<milliseconds>(last_ + pause_ - now);
  if (left <= milliseconds::zero()) return ETIMEDOUT;
  pollfd waiting{.fd = fd_, .events = events, .revents = 0};
  const auto wait = std::min<milliseconds::rep>(left.count(), std::numeric_limits<int>::max());
  return ::poll(&waiting, 1, static_cast<int>(wait)) < 0 ? errno : 0;
}

}  // namespace dataplane
