// receive: a buffer is filled whatever the pieces that arrive, and an end, a pause, a reset and a
// signal are told apart.
#include "core/net/receive.hpp"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/unique_fd.hpp"
#include "tests/check.hpp"

namespace {

using dataplane::UniqueFd;

// Go on behind what was received before.
int receive(int fd, std::span<std::byte> out, int pause_ms, std::size_t& received) {
  dataplane::Receiver receiver(fd, out.subspan(received), std::chrono::milliseconds(pause_ms));
  const int err = receiver.run();
  received += receiver.received();
  return err;
}

struct Pair {
  UniqueFd ours;
  UniqueFd theirs;
};

Pair connected() {
  std::array<int, 2> fds{};
  CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) == 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

std::vector<std::byte> pattern(std::size_t length) {
  std::vector<std::byte> bytes(length);
  for (std::size_t i = 0; i < length; ++i)
    bytes[i] = static_cast<std::byte>((std::uint64_t{i} * 2654435761U) >> 11);
  return bytes;
}

void send_all(int fd, std::span<const std::byte> bytes, std::size_t piece) {
  while (!bytes.empty()) {
    const auto part = bytes.first(std::min(piece, bytes.size()));
    const ssize_t sent = ::send(fd, part.data(), part.size(), MSG_NOSIGNAL);
    CHECK(sent > 0);
    bytes = bytes.subspan(static_cast<std::size_t>(sent));
  }
}

void a_buffer_is_filled_whatever_the_pieces() {
  for (const std::size_t piece : {std::size_t{1}, std::size_t{4096}, std::size_t{300000}}) {
    const auto sent = pattern(piece == 1 ? 5000 : 2000000);
    const Pair pair = connected();
    std::thread sender([&] { send_all(pair.theirs.get(), sent, piece); });
    std::vector<std::byte> got(sent.size());
    std::size_t received = 0;
    const std::size_t front = sent.size() / 3;
    CHECK(receive(pair.ours.get(), std::span(got).first(front), 10000, received) == 0);
    CHECK(received == front);
    CHECK(receive(pair.ours.get(), got, 10000, received) == 0);
    CHECK(received == got.size());
    sender.join();
    CHECK(got == sent);
  }
}

// Only TCP knows of the mark that receive sets while it waits.
Pair connected_by_tcp() {
  const UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  CHECK(::bind(listener.get(), generic, sizeof address) == 0);
  CHECK(::listen(listener.get(), 1) == 0);
  CHECK(::getsockname(listener.get(), generic, &length) == 0);
  UniqueFd ours(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CHECK(::connect(ours.get(), generic, sizeof address) == 0);
  return {std::move(ours), UniqueFd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC))};
}

void a_wait_leaves_the_socket_awake_for_a_single_byte() {
  const auto sent = pattern(300000);
  const Pair pair = connected_by_tcp();
  std::thread sender([&] {
    ::usleep(20000);
    send_all(pair.theirs.get(), std::span(sent).first(100000), 100000);
    ::usleep(20000);
    send_all(pair.theirs.get(), std::span(sent).subspan(100000), 200000);
  });
  std::vector<std::byte> got(sent.size());
  std::size_t received = 0;
  CHECK(receive(pair.ours.get(), got, 10000, received) == 0);
  sender.join();
  CHECK(got == sent);
  for (const std::size_t wanted : {std::size_t{1}, std::size_t{500}}) {
    send_all(pair.theirs.get(), std::span(sent).first(1), 1);
    pollfd waiting{.fd = pair.ours.get(), .events = POLLIN, .revents = 0};
    CHECK(::poll(&waiting, 1, 5000) == 1);
    received = 0;  // and after a wait that ends without enough
    const int expected = wanted == 1 ? 0 : ETIMEDOUT;
    CHECK(receive(pair.ours.get(), std::span(got).first(wanted), 20, received) ==
          expected);
    CHECK(received == 1);
  }
  send_all(pair.theirs.get(), std::span(sent).first(1), 1);
  pollfd waiting{.fd = pair.ours.get(), .events = POLLIN, .revents = 0};
  CHECK(::poll(&waiting, 1, 5000) == 1);
}

void a_trickle_is_not_a_pause() {
  const auto sent = pattern(12);
  const Pair pair = connected_by_tcp();
  std::thread sender([&] {
    for (const std::byte& byte : sent) {
      ::usleep(40000);
      send_all(pair.theirs.get(), std::span(&byte, 1), 1);
    }
  });
  std::vector<std::byte> got(sent.size());
  std::size_t received = 0;
  CHECK(receive(pair.ours.get(), got, 300, received) == 0);  // 480 ms in all
  sender.join();
  CHECK(got == sent);
}

void an_end_is_not_an_error_and_says_how_far_it_got() {
  Pair pair = connected();
  const auto sent = pattern(1000);
  send_all(pair.theirs.get(), sent, 1000);
  pair.theirs = UniqueFd(-1);
  std::vector<std::byte> got(4000);
  std::size_t received = 0;
  CHECK(receive(pair.ours.get(), got, 10000, received) == 0);
  CHECK(received == 1000);
}

void a_pause_and_a_bad_descriptor_are_errors() {
  const Pair pair = connected();
  const auto sent = pattern(10);
  send_all(pair.theirs.get(), sent, 10);
  std::vector<std::byte> got(11);
  std::size_t received = 0;
  CHECK(receive(pair.ours.get(), got, 20, received) == ETIMEDOUT);
  CHECK(received == 10);
  CHECK(receive(-1, got, 20, received) == EBADF);
  CHECK(receive(-1, std::span(got).first(10), 20, received) == 0);  // it is full
}

void a_signal_ends_the_wait() {
  struct sigaction action{};
  action.sa_handler = [](int) {};
  struct sigaction before{};
  CHECK(::sigaction(SIGUSR1, &action, &before) == 0);
  const Pair pair = connected();
  const pthread_t self = ::pthread_self();
  std::atomic<bool> ended{false};
  std::thread other([self, &ended] {  // again and again: the first may come before the wait
    while (!ended) {
      ::usleep(1000);
      ::pthread_kill(self, SIGUSR1);
    }
  });
  std::array<std::byte, 4> got{};
  std::size_t received = 0;
  CHECK(receive(pair.ours.get(), got, 10000, received) == EINTR);
  CHECK(received == 0);
  dataplane::Receiver receiver(pair.ours.get(), got, std::chrono::milliseconds(100));
  int err = EINTR;  // the pause does not begin again with each of them
  int interrupted = 0;
  while (err == EINTR) {
    err = receiver.run();
    ++interrupted;
  }
  CHECK(err == ETIMEDOUT);
  CHECK(interrupted > 2);
  ended = true;
  other.join();
  CHECK(::sigaction(SIGUSR1, &before, nullptr) == 0);
}

}  // namespace

int main() {
  a_buffer_is_filled_whatever_the_pieces();
  a_wait_leaves_the_socket_awake_for_a_single_byte();
  a_trickle_is_not_a_pause();
  an_end_is_not_an_error_and_says_how_far_it_got();
  a_pause_and_a_bad_descriptor_are_errors();
  a_signal_ends_the_wait();
  return check::result();
}
