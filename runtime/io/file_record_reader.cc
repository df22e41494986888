// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/file_record_reader.h"

#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "runtime/base/check.h"
#include "runtime/base/packed_layout.h"  // kPageBytes
#include "runtime/io/read_queue.h"

namespace adapmoe {
namespace {

class FileRecordReader final : public AsyncReader {
 public:
  FileRecordReader(std::unique_ptr<AsyncReader> reader, std::span<std::byte> staging, int places,
                   FileRecords records)
      : staging_(staging),
        place_bytes_(staging.size() / static_cast<size_t>(places)),
        records_(std::move(records)),
        queue_({.depth = places}),
        places_(static_cast<size_t>(places)),
        reader_(std::move(reader)) {
    for (size_t i = places_.size(); i-- > 0;) free_.push_back(i);
    reader_->set_completion(
        [this](uint64_t place, const Status& read, std::span<const std::byte> /*bytes*/) {
          arrived(static_cast<size_t>(place), read);
        });
  }

  void set_completion(Completion completion) override { completion_ = std::move(completion); }

  void submit(const ReadRequest& request) override {
    const std::lock_guard lock(mutex_);
    queue_.push(request);
    begin_locked();
  }

  bool cancel(uint64_t tag) override {
    const std::lock_guard lock(mutex_);
    return queue_.cancel(tag);
  }

  bool promote(uint64_t tag) override {
    const std::lock_guard lock(mutex_);
    if (!queue_.promote(tag)) return false;
    begin_locked();
    return true;
  }

  Registration registration() const override { return reader_->registration(); }

 private:
  // Hands reads to the reader while there is a place for what they bring.
  void begin_locked() {
    while (!free_.empty()) {
      std::optional<ReadQueue::Piece> whole = queue_.next();  // it cuts nothing
      if (!whole) return;
      const size_t place = free_.back();
      free_.pop_back();
      places_[place] = *std::move(whole);
      const ReadRequest& request = places_[place].part;
      const File& file = records_.file(request.tag);
      const auto bytes = static_cast<size_t>(align_up(file.size(), kPageBytes));
      ADAPMOE_CHECK(bytes <= place_bytes_);
      reader_->submit({.offset = 0,
                       .into = part(place).first(bytes),
                       .priority = request.priority,
                       .tag = place,
                       .file = &file});
    }
  }

  // On a thread of the reader.
  void arrived(size_t place, const Status& read) {
    const ReadQueue::Piece whole = places_[place];
    const ReadRequest& request = whole.part;
    Status status = read;
    if (status.ok()) {
      const auto bytes = static_cast<size_t>(records_.file(request.tag).size());
      status = records_.place(request.tag, part(place).first(bytes), request.into);
    }
    {
      const std::lock_guard lock(mutex_);
      queue_.finished(whole);
      free_.push_back(place);
      begin_locked();
    }
    completion_(request.tag, status, request.into);
  }

  std::span<std::byte> part(size_t place) const {
    return staging_.subspan(place * place_bytes_, place_bytes_);
  }

  const std::span<std::byte> staging_;
  const size_t place_bytes_;
  const FileRecords records_;
  Completion completion_;
  std::mutex mutex_;
  ReadQueue queue_;
  std::vector<ReadQueue::Piece> places_;  // what is read into each
  std::vector<size_t> free_;
  std::unique_ptr<AsyncReader> reader_;  // last member: destroyed first, so nothing arrives late
};

}  // namespace

std::unique_ptr<AsyncReader> make_file_record_reader(std::unique_ptr<AsyncReader> reader,
                                                     std::span<std::byte> staging, int places,
                                                     FileRecords records) {
  return std::make_unique<FileRecordReader>(std::move(reader), staging, places, std::move(records));
}

}  // namespace adapmoe
