// SPDX-License-Identifier: Apache-2.0
#include "runtime/store/engine_store.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>
#include <string_view>
#include <utility>

#include "runtime/base/strings.h"
#include "runtime/store/json_fields.h"
#include "runtime/store/pack.h"  // read_manifest_text

namespace adapmoe {

// One entry of engines.json.
struct EngineStore::Record {
  std::string file;
  std::string version;
  std::vector<std::string> targets;
  std::string sha256;
  int64_t bytes = 0;
  std::optional<EngineDevice> device;  // that it was built on, where that is recorded
};

namespace {

namespace fs = std::filesystem;
constexpr char kLibrary[] = "tensorrt";
constexpr int64_t kMaxEngineBytes = int64_t{1} << 40;

std::vector<std::string> read_texts(const Fields& f, const char* key) {
  const nlohmann::json& list = f.at(key);
  std::vector<std::string> texts;
  if (!list.is_array()) throw FieldError(str_cat(f.name(), ".", key, ": expected a list"));
  for (const nlohmann::json& item : list) {
    if (!item.is_string()) throw FieldError(str_cat(f.name(), ".", key, ": expected texts"));
    texts.push_back(item.get<std::string>());
  }
  return texts;
}

std::string read_sha256(const Fields& f, const char* key) {
  std::string digits = f.text(key);
  if (digits.size() != 64 || digits.find_first_not_of("0123456789abcdef") != std::string::npos) {
    throw FieldError(str_cat(f.name(), ".", key, ": expected 64 lowercase hexadecimal digits"));
  }
  return digits;
}

std::optional<EngineDevice> read_device(const Fields& f) {
  if (!f.json().contains("device")) return std::nullopt;
  const Fields device = f.object("device");
  device.allow_only({"name", "multiprocessors"});
  return EngineDevice{.target = "",
                      .name = device.text("name"),
                      .multiprocessors = device.integer("multiprocessors", 1, 1 << 20)};
}

std::string described(const EngineDevice& device) {
  return str_cat(shown_name(device.name), " with ", device.multiprocessors, " multiprocessors");
}

// The folders with a list, for messages.
std::string tags_there(const fs::path& engines) {
  std::vector<std::string> tags;
  std::error_code error;  // none there: the same as an empty folder
  for (const auto& entry : fs::directory_iterator(engines, error)) {
    if (fs::exists(entry.path() / "engines.json", error)) tags.push_back(entry.path().filename());
  }
  std::sort(tags.begin(), tags.end());
  std::string text;
  for (const std::string& tag : tags) text += str_cat(text.empty() ? "" : ", ", shown_name(tag));
  return text.empty() ? "there are no engines" : "there are engines for " + text;
}

std::string joined(const std::vector<std::string>& texts) {
  std::string all;
  for (const std::string& text : texts) all += str_cat(all.empty() ? "" : ", ", shown_name(text));
  return all;
}

bool is_missing(const std::string& path) {
  std::error_code error;
  return fs::status(path, error).type() == fs::file_type::not_found;
}

// Whether a target, "sm_87", or "sm_80+" for that and later, covers `device`.
bool covers(const std::string& target, const std::string& device) {
  if (target == device) return true;
  const auto number = [](std::string_view text) {
    int value = -1;
    if (text.starts_with("sm_")) {
      text.remove_prefix(3);
      std::from_chars(text.data(), text.data() + text.size(), value);
    }
    return value;
  };
  return target.ends_with('+') && number(target) >= 0 && number(device) >= number(target);
}

}  // namespace

Result<EngineStore> EngineStore::open(const std::string& pack_dir, const ModelConfig& config,
                                      const EngineDevice& device, bool direct_io) {
  const std::string folder = str_cat(pack_dir, "/engines/", kLibrary, "-", device.target);
  EngineStore store;
  store.path_ = folder + "/engines.json";
  store.device_ = device;
  store.rebuild_ = str_cat("adapmoe build-engines ", pack_dir, " --builder ", kLibrary);
  const auto refuse = [&](const std::string& reason) {
    return engine_error(
        str_cat(store.path_, ": ", reason, "; build the engines: ", store.rebuild_));
  };

  auto file = File::open(store.path_, /*direct=*/false);
  if (!file.ok() && is_missing(store.path_)) {
    return refuse("missing; " + tags_there(fs::path(pack_dir) / "engines"));
  }
  if (!file.ok()) return store.unopened(store.path_, file.status());
  if (file.value().size() > kMaxJsonBytes) return refuse("too large for a list of engines");
  std::string text(static_cast<size_t>(file.value().size()), '\0');
  ADAPMOE_RETURN_IF_ERROR(file.value().read_at(0, std::as_writable_bytes(std::span(text))));
  auto manifest = read_manifest_text(pack_dir);
  if (!manifest.ok()) return manifest.status();
  const std::string pack_hash = to_hex(sha256(std::as_bytes(std::span(manifest.value()))));

  Records records;
  try {
    const nlohmann::json root = parse_json(text);
    const Fields f(root, "engines");
    f.require("format", "adapmoe-engines");
    f.require("format_version", 1);
    f.allow_only({"format", "format_version", "manifest_sha256", "engines"});
    if (f.text("manifest_sha256") != pack_hash) {
      return refuse(str_cat("the engines are of another pack, with manifest.json of SHA-256 ",
                            shown_name(f.text("manifest_sha256")), ", here it is ", pack_hash));
    }
    if (!f.at("engines").is_array()) throw FieldError("engines.engines: expected a list");
    for (const nlohmann::json& item : f.at("engines")) {
      const Fields e(item, str_cat("engines[", records.size(), "]"));
      e.allow_only({"layer", "expert", "file", "bytes", "sha256", "library", "version", "targets",
                    "flags", "onnx_sha256", "seconds", "peak_rss_bytes", "device"});
      const int64_t layer = e.integer("layer", 0, config.num_hidden_layers - 1);
      const int64_t expert = e.integer("expert", 0, config.num_local_experts - 1);
      e.require("library", kLibrary);
      // A list may not lead out of its folder.
      e.require("file", str_cat("layer", layer, "-expert", expert, ".plan"));
      Record record{.file = e.text("file"),
                    .version = e.text("version"),
                    .targets = read_texts(e, "targets"),
                    .sha256 = read_sha256(e, "sha256"),
                    .bytes = e.integer("bytes", 1, kMaxEngineBytes),
                    .device = read_device(e)};
      if (!records.emplace(std::pair(layer, expert), std::move(record)).second) {
        throw FieldError(str_cat("expert ", expert, " of layer ", layer, " is listed twice"));
      }
    }
  } catch (const FieldError& error) {
    return refuse(error.what());
  }

  const int64_t experts = config.num_hidden_layers * config.num_local_experts;
  if (static_cast<int64_t>(records.size()) != experts) {
    return refuse(str_cat("lists ", records.size(), " engines, the model has ", experts,
                          " experts; an expert without a listed plan cannot run"));
  }
  ADAPMOE_RETURN_IF_ERROR(store.open_plans(folder, records, direct_io));
  return store;
}

Status EngineStore::open_plans(const std::string& folder, const Records& records, bool direct_io) {
  version_ = records.begin()->second.version;
  plans_.reserve(records.size());
  expect_open_files(records.size());
  for (const auto& [id, record] : records) {
    ADAPMOE_RETURN_IF_ERROR(open_plan(str_cat(folder, "/", record.file), record, direct_io));
  }
  return {};
}

Status EngineStore::check_origin(const std::string& path, const Record& record) const {
  if (record.version != version_) {
    return engine_error(str_cat(path, ": built by ", kLibrary, " ", shown_name(record.version),
                                ", others by ", shown_name(version_), "; rebuild: ", rebuild_));
  }
  const bool fits = std::any_of(record.targets.begin(), record.targets.end(),
                                [&](const std::string& t) { return covers(t, device_.target); });
  if (!fits) {
    return engine_error(str_cat(path, ": built by ", kLibrary, " ", version_, " for ",
                                joined(record.targets), ", but this device is ", device_.target,
                                "; build for it: ", rebuild_));
  }
  const auto& on = record.device;
  if (on && (on->name != device_.name || on->multiprocessors != device_.multiprocessors)) {
    return engine_error(str_cat(path, ": built by ", kLibrary, " ", version_, " on ",
                                described(*on), ", but this device is ", described(device_),
                                "; build for it: ", rebuild_));
  }
  return {};
}

// Building again mends what is missing, not what cannot be opened.
Status EngineStore::unopened(const std::string& path, const Status& reason) const {
  if (!is_missing(path)) return engine_error(reason.message());
  return engine_error(str_cat(reason.message(), "; rebuild: ", rebuild_));
}

Status EngineStore::open_plan(const std::string& path, const Record& record, bool direct_io) {
  ADAPMOE_RETURN_IF_ERROR(check_origin(path, record));
  auto file = File::open(path, direct_io);
  if (!file.ok()) return unopened(path, file.status());
  if (file.value().size() != record.bytes) {
    return engine_error(str_cat(path, ": ", file.value().size(), " bytes, the list says ",
                                record.bytes, ": it is damaged and not used; rebuild: ", rebuild_));
  }
  if (!plans_.empty() && record.bytes > largest_bytes()) largest_ = plans_.size();
  plans_.push_back({std::move(file).value(), record.sha256});
  return {};
}

std::string EngineStore::built_by() const {
  return str_cat(path_, ": built by ", kLibrary, " ", shown_name(version_), " for ",
                 device_.target);
}

Result<std::vector<std::byte>> EngineStore::read(size_t expert) const {
  // Through the page cache, whose pages are whole and at any address.
  auto file = File::open(plans_[expert].file.path(), /*direct=*/false);
  if (!file.ok()) return unopened(plans_[expert].file.path(), file.status());
  std::vector<std::byte> plan(static_cast<size_t>(plans_[expert].file.size()));
  ADAPMOE_RETURN_IF_ERROR(file.value().read_at(0, plan));
  file.value().drop_page_cache();
  ADAPMOE_RETURN_IF_ERROR(check(expert, plan));
  return plan;
}

Status EngineStore::check(size_t expert, std::span<const std::byte> plan) const {
  const std::string found = to_hex(sha256(plan));
  if (found == plans_[expert].sha256) return {};
  return refused(expert, str_cat("SHA-256 is ", found, ", but ", kLibrary, " ", version_,
                                 " wrote a plan with ", plans_[expert].sha256,
                                 ": it is damaged and not used"));
}

Status EngineStore::refused(size_t expert, const std::string& reason) const {
  return engine_error(str_cat(plans_[expert].file.path(), ": ", reason, "; rebuild: ", rebuild_));
}

}  // namespace adapmoe
