// Workspace of one thread that decodes, kept between chunks: a zstd context and scratch memory.
//
// Scratch only grows, so that nothing is allocated per chunk once it is warm; `trim` gives back what an
// exceptionally large chunk left behind. Not thread-safe: one owner at a time.
#pragma once

#include <zstd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <span>

namespace dataplane {

class ScratchBuffer {
 public:
  // At least `bytes` bytes on a cache-line boundary; what they held before is lost.
  [[nodiscard]] std::span<std::byte> get(std::size_t bytes) {
    if (bytes > capacity_) {
      const std::size_t rounded = (bytes + kAlign - 1) / kAlign * kAlign;
      memory_.reset();
      capacity_ = 0;
      memory_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlign, rounded)));
      if (memory_ == nullptr) throw std::bad_alloc();
      capacity_ = rounded;
    }
    return {memory_.get(), bytes};
  }
  [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }
  void trim(std::size_t keep_bytes) noexcept {
    if (capacity_ <= keep_bytes) return;
    memory_.reset();
    capacity_ = 0;
  }

 private:
  static constexpr std::size_t kAlign = 64;
  struct Free {
    void operator()(std::byte* memory) const noexcept { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  std::size_t capacity_ = 0;
};

class Workspace {
 public:
  ScratchBuffer chunk;   // a whole decoded chunk, where it cannot go to its place directly
  ScratchBuffer block;   // the decompressed streams of one Blosc block
  ScratchBuffer planes;  // its byte planes, made of bit planes
  ScratchBuffer tile;    // a few un-shuffled elements on their way to short runs
  ScratchBuffer placed;  // a few elements as the destination will hold them

  // Asked between the blocks of a chunk: whether the call has been cancelled.
  const std::function<bool()>* stop = nullptr;
  [[nodiscard]] bool stopped() const { return stop != nullptr && (*stop)(); }

  // `bytes` bytes that are zero and stay so.
  [[nodiscard]] const std::byte* zeros(std::size_t bytes) {
    if (bytes > zero_bytes_) {
      zero_bytes_ = 0;
      const std::span<std::byte> memory = zeros_.get(bytes);
      std::memset(memory.data(), 0, bytes);
      zero_bytes_ = bytes;
    }
    return zeros_.get(bytes).data();
  }

  [[nodiscard]] ZSTD_DCtx* zstd() {
    if (zstd_ == nullptr) zstd_.reset(ZSTD_createDCtx());
    if (zstd_ == nullptr) throw std::bad_alloc();
    return zstd_.get();
  }
  void trim() noexcept {
    for (ScratchBuffer* buffer : {&chunk, &block, &planes, &tile, &placed, &zeros_})
      buffer->trim(kKeepBytes);
    zero_bytes_ = std::min(zero_bytes_, zeros_.capacity());
    if (ZSTD_sizeof_DCtx(zstd_.get()) > kKeepBytes) zstd_.reset();  // it keeps a frame's window
  }

 private:
  static constexpr std::size_t kKeepBytes = std::size_t{16} << 20;
  struct Free {
    void operator()(ZSTD_DCtx* context) const noexcept { ZSTD_freeDCtx(context); }
  };
  ScratchBuffer zeros_;
  std::size_t zero_bytes_ = 0;
  std::unique_ptr<ZSTD_DCtx, Free> zstd_;
};

}  // namespace dataplane
