// TLS connections, as Python sees them. A failed system call is an OSError; a failure of TLS itself,
// a certificate that is refused among them, is TlsFailure.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "bindings/bindings.hpp"
#include "bindings/buffers.hpp"
#include "bindings/waiting.hpp"
#include "core/net/tls_connection.hpp"
#include "core/net/tls_context.hpp"

namespace nb = nanobind;

namespace dataplane::bindings {
namespace {

[[noreturn]] void raise_tls_failure(const std::string& failure) {
  const nb::object type = nb::module_::import_("dataplane._native").attr("TlsFailure");
  PyErr_SetString(type.ptr(), failure.c_str());
  throw nb::python_error();
}

// A connection that refuses a second call while the first one has let go of the interpreter's lock. A
// forked child has no thread that could be in one.
class SharedConnection {
 public:
  SharedConnection(std::shared_ptr<TlsContext> context, UniqueFd fd)
      : connection_(std::move(context), std::move(fd)) {}

  class Use {
   public:
    explicit Use(SharedConnection& shared) : shared_(shared) {
      if (shared_.is_used_.exchange(true) && shared_.pid_ == ::getpid())
        throw nb::value_error("the connection is in use by another thread");
    }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    ~Use() { shared_.is_used_ = false; }
    TlsConnection* operator->() const { return &shared_.connection_; }
    TlsConnection& operator*() const { return shared_.connection_; }

   private:
    SharedConnection& shared_;
  };

 private:
  TlsConnection connection_;
  pid_t pid_ = ::getpid();
  std::atomic<bool> is_used_{false};
};

using Use = SharedConnection::Use;

std::shared_ptr<TlsContext> make_context(std::string host, nb::handle roots) {
  auto context = std::make_shared<TlsContext>();
  const HeldBuffer held(roots);
  std::string failure;
  {
    const GilReleased unlocked;  // it may read some hundred certificates
    failure = context->open(std::move(host), held.bytes());
  }
  if (!failure.empty()) raise_tls_failure(failure);
  return context;
}

// Call a step of a connection until it is done, or raise what it failed with.
template <typename Step>
void complete(const TlsConnection& connection, Step&& step) {
  const int err = until_done(std::forward<Step>(step));
  if (err == kTlsFailed) raise_tls_failure(connection.failure());
  if (err != 0) raise_errno(err);
}

void handshake(SharedConnection& shared, double timeout_s) {
  const Use connection(shared);
  Waiter waiter(connection->fd(), milliseconds(timeout_s));
  complete(*connection, [&] { return connection->handshake(waiter); });
}

void send(SharedConnection& shared, nb::handle bytes, double pause_s) {
  const Use connection(shared);
  const HeldBuffer held(bytes);
  Waiter waiter(connection->fd(), milliseconds(pause_s));
  auto rest = held.bytes();
  complete(*connection, [&] { return connection->send(rest, waiter); });
}

std::size_t receive(SharedConnection& shared, nb::handle buffer, double pause_s, bool whole) {
  const Use connection(shared);
  const HeldBuffer held(buffer, true);
  Waiter waiter(connection->fd(), milliseconds(pause_s));
  auto rest = held.writable_bytes();
  complete(*connection, [&] { return connection->receive(rest, waiter, whole); });
  return held.writable_bytes().size() - rest.size();
}

void bind_connection(nb::module_& module) {
  nb::class_<SharedConnection>(module, "TlsConnection", nb::is_weak_referenceable())
      .def(
          "__init__",
          [](SharedConnection* self, std::shared_ptr<TlsContext> context, int fd) {
            new (self) SharedConnection(std::move(context), UniqueFd(fd));
          },
          nb::arg("context"), nb::arg("fd"))
      .def("handshake", &handshake, nb::kw_only(), nb::arg("timeout_s"))
      .def("send", &send, nb::arg("bytes"), nb::kw_only(), nb::arg("pause_s"))
      .def("receive", &receive, nb::arg("buffer"), nb::kw_only(), nb::arg("pause_s"),
           nb::arg("whole") = true)
      .def("is_quiet", [](SharedConnection& shared) { return Use(shared)->is_quiet(); })
      .def("close", [](SharedConnection& shared) { Use(shared)->close(); })
      .def_prop_ro("is_resumed",
                   [](SharedConnection& shared) { return Use(shared)->is_resumed(); })
      .def_prop_ro("version", [](SharedConnection& shared) { return Use(shared)->version(); })
      .def_prop_ro("cipher", [](SharedConnection& shared) { return Use(shared)->cipher(); })
      .def_prop_ro("is_kernel_tls",
                   [](SharedConnection& shared) { return Use(shared)->is_kernel_tls(); });
}

}  // namespace

void bind_tls(nb::module_& module) {
  const nb::object failure = nb::steal(PyErr_NewExceptionWithDoc(
      "dataplane._native.TlsFailure", "TLS failed; the text says why.", nullptr, nullptr));
  module.attr("TlsFailure") = failure;
  nb::class_<TlsContext>(module, "TlsContext")
      .def(nb::new_(&make_context), nb::arg("host"), nb::arg("roots"));
  bind_connection(module);
}

}  // namespace dataplane::bindings
