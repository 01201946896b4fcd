// current_device() of device.h, asked of the CUDA runtime.
#include "device.h"

#include <cuda_runtime_api.h>

#include <map>
#include <mutex>
#include <stdexcept>
#include <string>

namespace convx {
namespace cuda {
namespace {

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error("CUDA error in " + std::string(what) + ": " + cudaGetErrorString(error) + " (" +
                             cudaGetErrorName(error) + ")");
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "reading what the GPU can do");
  return value;
}

}  // namespace

const Device& current_device() {
  static std::mutex mutex;
  static std::map<int, Device> known;
  int device = 0;
  check(cudaGetDevice(&device), "asking for the current GPU");
  std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find(device);
  if (found != known.end()) return found->second;
  const int capability =
      10 * attribute(cudaDevAttrComputeCapabilityMajor, device) + attribute(cudaDevAttrComputeCapabilityMinor, device);
  const Device d = {
      capability,
      attribute(cudaDevAttrMultiProcessorCount, device),
      size_t(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device)),
      capability == 90 && std::string(CONVX_CUDA_ARCHS).find("9.0a") != std::string::npos,
  };
  return known.emplace(device, d).first->second;
}

}  // namespace cuda
}  // namespace convx
