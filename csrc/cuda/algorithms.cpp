// The GPU's algorithms, best first. A new one is a NAME.cuh with its kernels, a NAME.cu with their launches, a
// namespace in rows.h, and rows here.
#include "rows.h"
#include "types.h"

namespace convx {
namespace cuda {

const AlgorithmList& algorithms(Primitive primitive) {
  static const AlgorithmList forward = {
      {"depthwise_small", "depthwise kernels of 3x3 to 7x7: a tile of results to a thread, all in registers",
       depthwise_small::forward_why_not, depthwise_small::forward_preferred, depthwise_small::forward},
      {"depthwise", "a window of the input slides in registers, a channel to a block or a lane",
       depthwise::forward_why_not, depthwise::preferred, depthwise::forward},
      {"patch_windows", "first layers on tensor cores, windows read from a patch in shared memory",
       patch_windows::forward_why_not, patch_windows::forward_preferred, patch_windows::forward},
      {"output_blocks", "a block of few channels' results becomes the channels of one, for tensor cores: last layers",
       output_blocks::forward_why_not, output_blocks::forward_preferred, output_blocks::forward},
      {"row_windows", "what a filter row reads becomes the channels of an image for tensor cores: first layers",
       row_windows::why_not, row_windows::preferred, row_windows::forward},
      {"tensorcore_grouped", "groups of up to 64 channels on tensor cores, a patch copied once",
       tensorcore_grouped::forward_why_not, tensorcore_grouped::preferred, tensorcore_grouped::forward},
      {"few_channels", "the same for several outputs at once: small groups, first and last layers",
       few_channels::forward_why_not, few_channels::forward_preferred, few_channels::forward},
      {"tensorcore_copied", "16-bit numbers or TF32 on a Hopper's tensor cores, gathered by its copy engine",
       tensorcore::forward_why_not_copied, tensorcore::preferred_copied, tensorcore::forward_copied},
      {"tensorcore_wgmma", "16-bit numbers on a Hopper's tensor cores, by four warps at a time",
       tensorcore::why_not_wgmma, tensorcore::preferred, tensorcore::forward_wgmma},
      {"tensorcore_terms", "float32 in two or three terms on a Hopper's tensor cores, gathered by its copy engine",
       tensorcore::forward_why_not_terms, tensorcore::preferred_terms, tensorcore::forward_terms},
      {"tensorcore", "a product of matrices on tensor cores", tensorcore::why_not, tensorcore::preferred,
       tensorcore::forward},
      {"tensorcore_split", "float32 on tensor cores, each number split into three", tensorcore::why_not_split,
       tensorcore::preferred, tensorcore::forward_split},
      {"direct", "a tiled matrix product that reads x through the taps", direct::why_not, direct::forward_preferred,
       direct::forward},
      {"reference", "the definition, a thread to an output", floating_only, always, reference::forward},
  };
  static const AlgorithmList grad_input = {
      {"depthwise_small", "the same as a forward from y; of stride 2 by the taps that reach each row and column",
       depthwise_small::grad_input_why_not, depthwise_small::grad_input_preferred, depthwise_small::grad_input},
      {"depthwise", "a window of the output slides in registers, stride phases in one launch",
       depthwise::grad_input_why_not, depthwise::preferred, depthwise::grad_input},
      {"patch_windows", "last layers on tensor cores, windows of y read from a patch in shared memory",
       patch_windows::grad_input_why_not, patch_windows::grad_input_preferred, patch_windows::grad_input},
      {"output_blocks", "a block of few channels' results becomes the channels of one, for tensor cores",
       output_blocks::grad_input_why_not, output_blocks::grad_input_preferred, output_blocks::grad_input},
      {"tensorcore_grouped", "groups of up to 64 channels on tensor cores, a patch copied once",
       tensorcore_grouped::grad_input_why_not, tensorcore_grouped::grad_input_preferred,
       tensorcore_grouped::grad_input},
      {"few_channels", "the same for several inputs at once: small groups, first and last layers",
       few_channels::grad_input_why_not, few_channels::grad_input_preferred, few_channels::grad_input},
      {"tensorcore_copied", "16-bit numbers or TF32 on a Hopper's tensor cores, gathered by its copy engine",
       tensorcore::grad_input_why_not_copied, tensorcore::preferred_copied_for_grad_input,
       tensorcore::grad_input_copied},
      {"tensorcore_wgmma", "16-bit numbers on a Hopper's tensor cores, by four warps at a time",
       tensorcore::why_not_wgmma, tensorcore::preferred_for_grad_input, tensorcore::grad_input_wgmma},
      {"tensorcore_terms", "float32 in two or three terms on a Hopper's tensor cores, gathered by its copy engine",
       tensorcore::grad_input_why_not_terms, tensorcore::preferred_terms_for_grad_input, tensorcore::grad_input_terms},
      {"tensorcore", "a product of matrices on tensor cores", tensorcore::why_not, tensorcore::preferred_for_grad_input,
       tensorcore::grad_input},
      {"tensorcore_split", "float32 on tensor cores, each number split into three", tensorcore::why_not_split,
       tensorcore::preferred_for_grad_input, tensorcore::grad_input_split},
      {"direct", "a tiled matrix product that reads y through the taps, in phases", direct::why_not,
       direct::grad_input_preferred, direct::grad_input},
      {"scatter", "each y stamps the kernel onto x, a tile to a block", floating_only, only_when_forced,
       scatter::grad_input},
      {"scatter_atomic", "each y stamps the kernel onto x, with atomics", scatter_atomic::why_not, only_when_forced,
       scatter_atomic::grad_input, /*deterministic=*/false},
      {"reference", "the definition in gather form, a thread to an input", floating_only, always,
       reference::grad_input},
  };
  static const AlgorithmList grad_weight = {
      {"depthwise_small", "the same tiles, with the sums of all taps in registers; summed in fixed order",
       depthwise_small::grad_weight_why_not, depthwise_small::grad_weight_preferred, depthwise_small::grad_weight},
      {"depthwise", "kernel rows slide along the input; pixels split over blocks, summed in fixed order",
       depthwise::grad_weight_why_not, depthwise::preferred, depthwise::grad_weight},
      {"patch_windows", "first and last layers on tensor cores, windows read from a patch in shared memory",
       patch_windows::grad_weight_why_not, patch_windows::grad_weight_preferred, patch_windows::grad_weight},
      {"row_windows", "what a filter row reads becomes the channels of an image for tensor cores: first layers",
       row_windows::why_not, row_windows::preferred, row_windows::grad_weight},
      {"tensorcore_grouped", "groups of up to 64 channels on tensor cores, a patch copied once",
       tensorcore_grouped::grad_weight_why_not, tensorcore_grouped::preferred, tensorcore_grouped::grad_weight},
      {"few_channels", "the same for several outputs at once: small groups, first and last layers",
       few_channels::grad_weight_why_not, few_channels::grad_weight_preferred, few_channels::grad_weight},
      {"tensorcore_copied", "16-bit numbers on a Hopper's tensor cores, gathered by its copy engine",
       tensorcore::grad_weight_why_not_copied, tensorcore::preferred_for_grad_weight, tensorcore::grad_weight_copied},
      {"tensorcore_wgmma", "16-bit numbers on a Hopper's tensor cores, by four warps at a time",
       tensorcore::why_not_wgmma, only_when_forced, tensorcore::grad_weight_wgmma},
      {"tensorcore_terms", "float32 in two or three terms on a Hopper's tensor cores, gathered by its copy engine",
       tensorcore::grad_weight_why_not_terms, tensorcore::preferred_terms_for_grad_weight,
       tensorcore::grad_weight_terms},
      {"tensorcore", "a product of matrices on tensor cores", tensorcore::why_not,
       tensorcore::preferred_for_grad_weight, tensorcore::grad_weight},
      {"tensorcore_split", "float32 on tensor cores, each number split into three", tensorcore::why_not_split,
       tensorcore::preferred_for_grad_weight, tensorcore::grad_weight_split},
      {"direct", "a tiled matrix product that reads x through the taps, split over pixels", direct::why_not,
       direct::grad_weight_preferred, direct::grad_weight},
      {"reference", "the definition, a thread to a weight", floating_only, always, reference::grad_weight},
  };
  switch (primitive) {
    case Primitive::forward: return forward;
    case Primitive::grad_input: return grad_input;
    case Primitive::grad_weight: break;
  }
  return grad_weight;
}

}  // namespace cuda
}  // namespace convx
