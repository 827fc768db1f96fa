// TLS connections: buffers are filled whatever the records, and an end with and without notice, a
// pause, a signal, a wrong server and a forked child are told apart.
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/unique_fd.hpp"
#include "core/net/tls_connection.hpp"
#include "core/net/tls_context.hpp"
#include "core/net/waiting.hpp"
#include "tests/check.hpp"

namespace {

using dataplane::OpenSslDeleter;
using dataplane::SslContextPtr;
using dataplane::SslPtr;
using dataplane::TlsConnection;
using dataplane::TlsContext;
using dataplane::UniqueFd;
using dataplane::Waiter;
using std::chrono::milliseconds;
using KeyPtr = std::unique_ptr<EVP_PKEY, OpenSslDeleter<EVP_PKEY_free>>;
using CertificatePtr = std::unique_ptr<X509, OpenSslDeleter<X509_free>>;

constexpr const char* kHost = "server.example";

std::vector<std::byte> pattern(std::size_t length) {
  std::vector<std::byte> bytes(length);
  for (std::size_t i = 0; i < length; ++i)
    bytes[i] = static_cast<std::byte>((std::uint64_t{i} * 2654435761U) >> 11);
  return bytes;
}

// A server's certificate, signed by itself, which is trusted where it is named.
struct Identity {
  KeyPtr key{EVP_EC_gen("P-256")};
  CertificatePtr certificate{X509_new()};

  Identity() {
    X509* const raw = certificate.get();
    X509_set_version(raw, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(raw), 1);
    X509_gmtime_adj(X509_getm_notBefore(raw), -60);
    X509_gmtime_adj(X509_getm_notAfter(raw), 3600);
    X509_set_pubkey(raw, key.get());
    X509_NAME* const name = X509_get_subject_name(raw);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>("test"), -1, -1, 0);
    X509_set_issuer_name(raw, name);
    const std::string names = std::string("DNS:") + kHost;
    X509_EXTENSION* const extension =
        X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, names.c_str());
    CHECK(extension != nullptr && X509_add_ext(raw, extension, -1) == 1);
    X509_EXTENSION_free(extension);
    CHECK(X509_sign(raw, key.get(), EVP_sha256()) > 0);
  }

  [[nodiscard]] std::vector<std::byte> pem() const {
    const std::unique_ptr<BIO, OpenSslDeleter<BIO_free>> bio(BIO_new(BIO_s_mem()));
    CHECK(PEM_write_bio_X509(bio.get(), certificate.get()) == 1);
    char* text = nullptr;
    const long length = BIO_get_mem_data(bio.get(), &text);
    const auto* first = reinterpret_cast<const std::byte*>(text);
    return {first, first + length};
  }
};

// Speaks TLS on the other end of a pair of sockets, on a thread of its own.
class Server {
 public:
  Server() : context_(SSL_CTX_new(TLS_server_method())) {
    CHECK(SSL_CTX_use_certificate(context_.get(), identity_.certificate.get()) == 1);
    CHECK(SSL_CTX_use_PrivateKey(context_.get(), identity_.key.get()) == 1);
    const unsigned char id = 1;
    SSL_CTX_set_session_id_context(context_.get(), &id, 1);
  }
  ~Server() { join(); }

  [[nodiscard]] std::vector<std::byte> roots() const { return identity_.pem(); }

  // Returns the client's end; `talk` is called behind the handshake, then the server's is closed.
  UniqueFd serve(std::function<void(SSL*, int)> talk) {
    join();
    std::array<int, 2> fds{};
    CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) == 0);
    thread_ = std::thread([this, talk = std::move(talk), fd = fds[1]] {
      const UniqueFd owned(fd);
      const SslPtr ssl(SSL_new(context_.get()));
      SSL_set_fd(ssl.get(), fd);
      if (SSL_accept(ssl.get()) == 1) talk(ssl.get(), fd);
      SSL_set_shutdown(ssl.get(), SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
      ERR_clear_error();
    });
    return UniqueFd(fds[0]);
  }
  void join() {
    if (thread_.joinable()) thread_.join();
  }

 private:
  Identity identity_;
  SslContextPtr context_;
  std::thread thread_;
};

std::shared_ptr<TlsContext> context_for(std::span<const std::byte> roots,
                                        const char* host = kHost) {
  auto context = std::make_shared<TlsContext>();
  CHECK(context->open(host, roots).empty());
  return context;
}

int shake(TlsConnection& connection) {
  Waiter waiter(connection.fd(), milliseconds(10000));
  return connection.handshake(waiter);
}

int fill(TlsConnection& connection, std::span<std::byte> out, std::size_t& got, int pause_ms) {
  Waiter waiter(connection.fd(), milliseconds(pause_ms));
  auto rest = out;
  const int err = connection.receive(rest, waiter, true);
  got = out.size() - rest.size();
  return err;
}

void write_all(SSL* ssl, std::span<const std::byte> bytes, std::size_t piece) {
  while (!bytes.empty()) {
    const auto part = bytes.first(std::min(piece, bytes.size()));
    std::size_t sent = 0;
    CHECK(SSL_write_ex(ssl, part.data(), part.size(), &sent) == 1);
    if (sent == 0) return;
    bytes = bytes.subspan(sent);
  }
}

void wait_for_end(SSL* ssl) {
  std::byte byte{};
  std::size_t got = 0;
  while (SSL_read_ex(ssl, &byte, 1, &got) == 1) {
  }
}

void buffers_are_filled_whatever_the_records() {
  Server server;
  for (const std::size_t piece : {std::size_t{1}, std::size_t{5000}, std::size_t{1} << 20}) {
    const auto sent = pattern(piece == 1 ? 3000 : 3000000);
    TlsConnection connection(context_for(server.roots()), server.serve([&](SSL* ssl, int) {
      std::array<std::byte, 4> asked{};
      std::size_t got = 0;
      CHECK(SSL_read_ex(ssl, asked.data(), asked.size(), &got) == 1 && got == 4);
      write_all(ssl, sent, piece);
      wait_for_end(ssl);
      CHECK((SSL_get_shutdown(ssl) & SSL_RECEIVED_SHUTDOWN) != 0);
    }));
    CHECK(shake(connection) == 0);
    CHECK(connection.version() == "TLSv1.3");
    Waiter waiter(connection.fd(), milliseconds(10000));
    const auto question = pattern(4);
    std::span<const std::byte> rest(question);
    CHECK(connection.send(rest, waiter) == 0 && rest.empty());
    std::vector<std::byte> out(sent.size());
    std::size_t got = 0;
    CHECK(fill(connection, std::span(out).first(out.size() / 3), got, 10000) == 0);
    CHECK(got == out.size() / 3);
    CHECK(fill(connection, std::span(out).subspan(out.size() / 3), got, 10000) == 0);
    CHECK(out == sent);
    CHECK(connection.is_quiet());
    connection.close();
    connection.close();
    CHECK(fill(connection, out, got, 10) == ENOTCONN);
  }
}

void an_end_counts_only_when_it_is_said() {
  Server server;
  const auto sent = pattern(1000);
  for (const bool is_said : {true, false}) {
    TlsConnection connection(context_for(server.roots()), server.serve([&](SSL* ssl, int) {
      write_all(ssl, sent, 1000);
      if (is_said) SSL_shutdown(ssl);
    }));
    CHECK(shake(connection) == 0);
    std::vector<std::byte> out(4000);
    std::size_t got = 0;
    CHECK(fill(connection, out, got, 10000) == (is_said ? 0 : ECONNRESET));
    CHECK(got == 1000);
    CHECK(!connection.is_quiet());
  }
}

void a_pause_is_an_error_and_a_trickle_is_none() {
  Server server;
  TlsConnection connection(context_for(server.roots()), server.serve([&](SSL* ssl, int) {
    for (int i = 0; i < 10; ++i) {
      ::usleep(30000);
      write_all(ssl, pattern(1), 1);
    }
    wait_for_end(ssl);
  }));
  CHECK(shake(connection) == 0);
  std::vector<std::byte> out(11);
  std::size_t got = 0;
  CHECK(fill(connection, std::span(out).first(10), got, 250) == 0);  // 300 ms in all
  CHECK(fill(connection, out, got, 20) == ETIMEDOUT);
  CHECK(got == 0);
  connection.close();
}

void a_handshake_that_nobody_answers_ends_in_time() {
  std::array<int, 2> fds{};
  CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) == 0);
  const UniqueFd other(fds[1]);
  const Server server;
  TlsConnection connection(context_for(server.roots()), UniqueFd(fds[0]));
  Waiter waiter(connection.fd(), milliseconds(30));
  CHECK(connection.handshake(waiter) == ETIMEDOUT);
  std::size_t got = 0;
  std::vector<std::byte> out(1);
  CHECK(fill(connection, out, got, 10) == ENOTCONN);
}

void other_servers_are_refused() {
  Server server;
  const Identity other;
  const auto nothing = [](SSL*, int) {};
  TlsConnection wrong_name(context_for(server.roots(), "other.example"), server.serve(nothing));
  CHECK(shake(wrong_name) == dataplane::kTlsFailed);
  CHECK(wrong_name.failure() == "the certificate is refused: hostname mismatch");
  TlsConnection wrong_address(context_for(server.roots(), "127.0.0.1"), server.serve(nothing));
  CHECK(shake(wrong_address) == dataplane::kTlsFailed);
  TlsConnection unknown(context_for(other.pem()), server.serve(nothing));
  CHECK(shake(unknown) == dataplane::kTlsFailed);
  CHECK(unknown.failure().starts_with("the certificate is refused: self-signed"));
}

void what_cannot_be_trusted_or_checked_is_said() {
  const Identity identity;
  auto damaged = identity.pem();
  damaged[damaged.size() / 2] = std::byte{'!'};
  CHECK(TlsContext().open(kHost, damaged).starts_with("the certificates to trust: "));
  CHECK(!TlsContext().open("", identity.pem()).empty());
  CHECK(!TlsContext().open(std::string("a\0b", 3), identity.pem()).empty());
}

void the_next_connection_resumes_the_session() {
  Server server;
  const auto context = context_for(server.roots());
  for (int number = 0; number < 3; ++number) {
    TlsConnection connection(context, server.serve([](SSL* ssl, int) {
      write_all(ssl, pattern(1), 1);
      wait_for_end(ssl);
    }));
    CHECK(shake(connection) == 0);
    CHECK(connection.is_resumed() == (number > 0));
    std::vector<std::byte> out(1);  // the session comes along with the first bytes
    std::size_t got = 0;
    CHECK(fill(connection, out, got, 10000) == 0);
    if (number == 1) connection.close();  // the others just go
  }
}

void what_was_not_asked_for_makes_a_connection_unquiet() {
  Server server;
  TlsConnection connection(context_for(server.roots()), server.serve([](SSL* ssl, int) {
    write_all(ssl, pattern(1), 1);
    wait_for_end(ssl);
  }));
  CHECK(shake(connection) == 0);
  Waiter waiter(connection.fd(), milliseconds(10000));
  while (connection.is_quiet()) CHECK(waiter.wait(POLLIN) == 0);
  std::vector<std::byte> out(1);
  std::size_t got = 0;
  CHECK(fill(connection, out, got, 10000) == 0);
  CHECK(connection.is_quiet());
}

void a_signal_ends_the_wait() {
  struct sigaction action{};
  action.sa_handler = [](int) {};
  struct sigaction before{};
  CHECK(::sigaction(SIGUSR1, &action, &before) == 0);
  Server server;
  TlsConnection connection(context_for(server.roots()),
                           server.serve([](SSL* ssl, int) { wait_for_end(ssl); }));
  CHECK(shake(connection) == 0);
  std::atomic<bool> ended{false};
  std::thread other([self = ::pthread_self(), &ended] {
    while (!ended) {
      ::usleep(1000);
      ::pthread_kill(self, SIGUSR1);
    }
  });
  std::vector<std::byte> out(100000);
  Waiter waiter(connection.fd(), milliseconds(100));
  std::span<std::byte> rest(out);
  int err = EINTR;
  int interrupted = 0;
  while (err == EINTR) {
    err = connection.receive(rest, waiter, true);
    ++interrupted;
  }
  CHECK(err == ETIMEDOUT);
  CHECK(interrupted > 2);
  ended = true;
  other.join();
  CHECK(::sigaction(SIGUSR1, &before, nullptr) == 0);
  connection.close();
}

void a_forked_child_sends_nothing() {
  Server server;
  TlsConnection connection(context_for(server.roots()), server.serve([](SSL* ssl, int) {
    std::array<std::byte, 1> asked{};
    std::size_t got = 0;
    CHECK(SSL_read_ex(ssl, asked.data(), 1, &got) == 1);  // and no end before it
    write_all(ssl, pattern(1), 1);
    wait_for_end(ssl);
  }));
  CHECK(shake(connection) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    connection.close();
    ::_exit(0);
  }
  int status = -1;
  CHECK(::waitpid(child, &status, 0) == child && status == 0);
  Waiter waiter(connection.fd(), milliseconds(10000));
  const auto question = pattern(1);
  std::span<const std::byte> rest(question);
  CHECK(connection.send(rest, waiter) == 0);
  std::vector<std::byte> out(1);
  std::size_t got = 0;
  CHECK(fill(connection, out, got, 10000) == 0);
  connection.close();
}

}  // namespace

int main() {
  ::signal(SIGPIPE, SIG_IGN);  // as Python has it
  buffers_are_filled_whatever_the_records();
  an_end_counts_only_when_it_is_said();
  a_pause_is_an_error_and_a_trickle_is_none();
  a_handshake_that_nobody_answers_ends_in_time();
  other_servers_are_refused();
  what_cannot_be_trusted_or_checked_is_said();
  the_next_connection_resumes_the_session();
  what_was_not_asked_for_makes_a_connection_unquiet();
  a_signal_ends_the_wait();
  a_forked_child_sends_nothing();
  return check::result();
}
