// SPDX-License-Identifier: Apache-2.0
#include "runtime/base/cgroup.h"

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <optional>
#include <sstream>

namespace adapmoe {
namespace {

using Parts = std::vector<std::string>;

struct Mount {
  std::string point;
  Parts root;  // the group that is seen at `point`
  bool unified = true;
};

Parts split(const std::string& text, char separator) {
  Parts parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, separator);) {
    if (!part.empty()) parts.push_back(part);
  }
  return parts;
}

bool contains(const Parts& parts, const std::string& part) {
  return std::find(parts.begin(), parts.end(), part) != parts.end();
}

// mountinfo writes blanks and backslashes as three octal digits.
std::string unescape(const std::string& text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    const std::string digits = text.substr(i + 1, 3);
    const bool octal =
        digits.size() == 3 && digits.find_first_not_of("01234567") == std::string::npos;
    if (text[i] == '\\' && octal) {
      plain += static_cast<char>(std::stoi(digits, nullptr, 8));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

// "ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - TYPE SOURCE OPTIONS"
std::optional<Mount> parse_mount(const std::string& line, const std::string& controller) {
  const size_t dash = line.find(" - ");
  if (dash == std::string::npos) return std::nullopt;
  const Parts left = split(line.substr(0, dash), ' ');
  const Parts right = split(line.substr(dash + 3), ' ');
  if (left.size() < 5 || right.size() < 3) return std::nullopt;
  const bool unified = right[0] == "cgroup2";
  if (!unified && (right[0] != "cgroup" || !contains(split(right[2], ','), controller))) {
    return std::nullopt;
  }
  return Mount{
      .point = unescape(left[4]), .root = split(unescape(left[3]), '/'), .unified = unified};
}

std::vector<Mount> mounts_of(const std::string& root, const std::string& controller) {
  std::vector<Mount> mounts;
  std::ifstream in(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(in, line);) {
    if (auto mount = parse_mount(line, controller)) mounts.push_back(std::move(*mount));
  }
  return mounts;
}

size_t leading_ups(const Parts& parts) {
  size_t count = 0;
  while (count < parts.size() && parts[count] == "..") ++count;
  return count;
}

enum class Seen { kYes, kNo, kElsewhere };

// Whether the group at `path` is at or below `root`; both are relative to the root of our cgroup
// namespace, so that a group outside it is written "/../other". `below` is the way down from
// `root`.
Seen find_below(const Parts& root, const Parts& path, Parts* below) {
  const size_t root_ups = leading_ups(root);
  const size_t path_ups = leading_ups(path);
  if (path_ups > root_ups) return Seen::kNo;
  if (path_ups < root_ups) {  // at most an ancestor, and how it leads to us is not written
    return root.size() == root_ups ? Seen::kYes : Seen::kNo;
  }
  if (root.size() > path.size() || !std::equal(root.begin(), root.end(), path.begin())) {
    return Seen::kElsewhere;
  }
  below->assign(path.begin() + static_cast<std::ptrdiff_t>(root.size()), path.end());
  return Seen::kYes;
}

// `point` + `below`, and all parents up to `point`.
void add_with_parents(const std::string& point, Parts below, bool unified,
                      std::vector<CgroupDirectory>* found) {
  while (true) {
    std::string path = point;
    for (const std::string& part : below) path += "/" + part;
    found->push_back({.path = path, .unified = unified, .topmost = below.empty()});
    if (below.empty()) return;
    below.pop_back();
  }
}

void add_group(const std::string& root, const std::vector<Mount>& mounts, const Mount& usual,
               const Parts& path, std::vector<CgroupDirectory>* found) {
  const size_t before = found->size();
  bool mounted = false;
  const Mount* elsewhere = nullptr;
  for (const Mount& mount : mounts) {
    if (mount.unified != usual.unified) continue;
    mounted = true;
    Parts below;
    const Seen seen = find_below(mount.root, path, &below);
    if (seen == Seen::kYes) add_with_parents(root + mount.point, below, mount.unified, found);
    if (seen == Seen::kElsewhere) elsewhere = &mount;
  }
  if (found->size() > before) return;
  if (elsewhere != nullptr) {  // a container that shows its own group under another name
    add_with_parents(root + elsewhere->point, {}, usual.unified, found);
  } else if (!mounted && leading_ups(path) == 0) {  // or mountinfo cannot be read
    add_with_parents(root + usual.point, path, usual.unified, found);
  }
}

}  // namespace

std::vector<CgroupDirectory> cgroup_directories(const std::string& root,
                                                const std::string& controller) {
  const std::vector<Mount> mounts = mounts_of(root, controller);
  const Mount usual_v2{.point = "/sys/fs/cgroup", .root = {}, .unified = true};
  const Mount usual_v1{.point = usual_v2.point + "/" + controller, .root = {}, .unified = false};
  std::vector<CgroupDirectory> found;
  std::ifstream in(root + "/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {  // "ID:CONTROLLERS:/PATH"
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const Parts path = split(line.substr(second + 1), '/');
    if (controllers.empty()) {
      add_group(root, mounts, usual_v2, path, &found);
    } else if (contains(split(controllers, ','), controller)) {
      add_group(root, mounts, usual_v1, path, &found);
    }
  }
  return found;
}

}  // namespace adapmoe
