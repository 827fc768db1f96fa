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

// Only a hint: without it poll returns for every packet.
void wake_for(int fd, std::size_t bytes) noexcept {
  const int low = static_cast<int>(std::min(bytes, kWorthWakingBytes));
  (void)::setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low);
}

}  // namespace

int receive(int fd, std::span<std::byte> out, int pause_ms, std::size_t& received) noexcept {
  while (received < out.size()) {
    const auto rest = out.subspan(received);
    const ssize_t got = ::recv(fd, rest.data(), rest.size(), MSG_DONTWAIT);
    if (got == 0) return 0;
    if (got > 0) {
      received += static_cast<std::size_t>(got);
      continue;
    }
    if (errno != EAGAIN && errno != EWOULDBLOCK) return errno;
    wake_for(fd, rest.size());
    pollfd waiting{.fd = fd, .events = POLLIN, .revents = 0};
    const int ready = ::poll(&waiting, 1, pause_ms);
    if (ready == 0) return ETIMEDOUT;
    if (ready < 0) return errno;
  }
  return 0;
}

}  // namespace dataplane
