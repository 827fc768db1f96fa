#include "core/receive.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <algorithm>
#include <cerrno>

namespace dataplane {
namespace {

// Far above what one packet brings, far below what the kernel is willing to buffer.
constexpr std::size_t kWorthWakingBytes = 256U << 10;

// How much must have come before poll says so: without it, it does for every packet. Back to one
// byte in the end, or whoever next waits for a short answer waits for ever.
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

int receive(int fd, std::span<std::byte> out, int pause_ms, std::size_t& received) noexcept {
  WakeMark mark(fd);
  bool waited_in_vain = false;
  while (received < out.size()) {
    const auto rest = out.subspan(received);
    const ssize_t got = ::recv(fd, rest.data(), rest.size(), MSG_DONTWAIT);
    if (got == 0) return 0;
    if (got > 0) {
      received += static_cast<std::size_t>(got);
      waited_in_vain = false;
      continue;
    }
    if (errno != EAGAIN && errno != EWOULDBLOCK) return errno;
    if (waited_in_vain) return ETIMEDOUT;
    mark.set(rest.size());
    pollfd waiting{.fd = fd, .events = POLLIN, .revents = 0};
    const int ready = ::poll(&waiting, 1, pause_ms);
    if (ready < 0) return errno;
    waited_in_vain = ready == 0;  // less than the mark may have come all the same: look
  }
  return 0;
}

}  // namespace dataplane
