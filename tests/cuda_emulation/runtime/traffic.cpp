// A warp executes an instruction for its lanes at once; fibers execute it one after the other. The n-th execution of an
// instruction by a lane belongs to the n-th request of the warp.
//
// Shared memory has 32 banks of four bytes: a request takes as many cycles as there are different words in its fullest
// bank; accesses of 8 bytes go in two requests of 16 lanes, of 16 bytes in four of 8. Global memory moves sectors of 32
// bytes. (CUDA C++ Programming Guide, sections "Shared Memory" and "Device Memory Accesses" of the compute capabilities.)
#include "traffic.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <tuple>

#include "memory.h"

namespace emulation {

bool counting = false;

namespace {

struct Request {
  uint32_t lanes = 0;
  uintptr_t address[kWarpSize];
};

struct Site {  // an instruction, as one warp executes it
  size_t bytes = 0;
  size_t done = 0;  // requests that are already counted
  uint32_t executions[kWarpSize] = {};
  std::deque<Request> open;
};

struct Count {
  uint64_t requests = 0, moved = 0, least = 0;  // moved: cycles or sectors; least: what they would be at best
};

using Key = std::tuple<const void*, bool, Access>;
std::map<std::tuple<int, const void*, bool, Access>, Site> sites;  // by warp
std::map<Key, Count> counts;

uint64_t distinct(std::vector<uintptr_t>& values) {
  std::sort(values.begin(), values.end());
  return uint64_t(std::unique(values.begin(), values.end()) - values.begin());
}

// Cycles for these 4-byte words.
uint64_t cycles(std::vector<uintptr_t>& words) {
  words.resize(distinct(words));
  uint64_t in_bank[32] = {};
  uint64_t most = 0;
  for (uintptr_t word : words) most = std::max(most, ++in_bank[word % 32]);
  return most;
}

void evaluate(const Key& key, const Request& request, size_t bytes) {
  Count& count = counts[key];
  ++count.requests;
  static std::vector<uintptr_t> units;
  if (std::get<1>(key)) {
    const int lanes = bytes >= 16 ? 8 : bytes >= 8 ? 16 : 32;
    for (int first = 0; first < kWarpSize; first += lanes) {
      units.clear();
      for (int lane = first; lane < first + lanes; ++lane) {
        if (!(request.lanes >> lane & 1)) continue;
        for (size_t byte = 0; byte < bytes; byte += 4) units.push_back((request.address[lane] + byte) / 4);
      }
      if (units.empty()) continue;
      count.moved += cycles(units);
      ++count.least;
    }
    return;
  }
  std::vector<uintptr_t> touched;
  units.clear();
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (!(request.lanes >> lane & 1)) continue;
    for (size_t byte = 0; byte < bytes; ++byte) {
      touched.push_back(request.address[lane] + byte);
      units.push_back((request.address[lane] + byte) / 32);
    }
  }
  count.moved += distinct(units);
  count.least += (distinct(touched) + 31) / 32;
}

}  // namespace

void count_access(uintptr_t address, size_t bytes, Access kind, bool shared, const void* where) {
  const int lane = current->lane;
  Site& site = sites[{current->linear / kWarpSize, where, shared, kind}];
  site.bytes = bytes;
  const size_t index = site.executions[lane]++ - site.done;
  while (site.open.size() <= index) site.open.emplace_back();
  Request& request = site.open[index];
  request.lanes |= 1u << lane;
  request.address[lane] = address;
  while (!site.open.empty() && site.open.front().lanes == ~0u) {
    evaluate({where, shared, kind}, site.open.front(), bytes);
    site.open.pop_front();
    ++site.done;
  }
}

void count_rows(const uint32_t* addresses, int rows, Access kind, int line) {
  Request request;
  for (int i = 0; i < rows; ++i) {
    request.lanes |= 1u << i;
    request.address[i] = addresses[i];
  }
  evaluate({at_line(line), true, kind}, request, 16);
}

void finish_counting_block() {
  for (auto& [key, site] : sites) {
    for (const Request& request : site.open) {
      if (request.lanes) evaluate({std::get<1>(key), std::get<2>(key), std::get<3>(key)}, request, site.bytes);
    }
  }
  sites.clear();
}

}  // namespace emulation

using namespace emulation;

// Starts counting anew, or stops.
extern "C" void emulation_count_traffic(int start) {
  counting = start;
  if (!start) return;
  sites.clear();
  counts.clear();
}

// The counts since the start, one line each: space, kind, requests, moved, least, place.
extern "C" const char* emulation_traffic() {
  static std::string text;
  static const char* const kinds[] = {"read", "write", "atomic"};
  text.clear();
  for (const auto& [key, count] : counts) {
    char line[160];
    snprintf(line, sizeof line, "%s\t%s\t%zu\t%zu\t%zu\t", std::get<1>(key) ? "shared" : "global", kinds[int(std::get<2>(key))],
             size_t(count.requests), size_t(count.moved), size_t(count.least));
    text += line + source_line(std::get<0>(key)) + "\n";
  }
  return text.c_str();
}
