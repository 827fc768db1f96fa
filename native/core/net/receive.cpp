#include "core/net/receive.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <cerrno>

namespace dataplane {

int Receiver::run() noexcept {
  WakeMark mark(fd_);
  while (received_ < out_.size()) {
    const auto rest = out_.subspan(received_);
    const ssize_t got = ::recv(fd_, rest.data(), rest.size(), MSG_DONTWAIT);
    if (got == 0) return 0;
    if (got > 0) {
      received_ += static_cast<std::size_t>(got);
      waiter_.progressed();
      continue;
    }
    if (errno != EAGAIN && errno != EWOULDBLOCK) return errno;
    mark.set(rest.size());
    if (const int err = waiter_.wait(POLLIN); err != 0) return err;
  }
  return 0;
}

}  // namespace dataplane
