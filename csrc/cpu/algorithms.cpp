// The CPU's algorithms, best first. A new kernel is a new file and a row here.
#include "../algorithm.h"
#include "engine_rows.h"
#include "reference.h"
#include "scatter.h"

namespace convx {
namespace cpu {

const AlgorithmList& algorithms(Primitive primitive) {
  static const AlgorithmList forward = {
      {"depthwise", "vectors across the pixels of planes, in place, masks for padding", why_not_in_place_forward,
       better_in_place_forward, forward_by<&Engine::in_place>},
      {"depthwise_channels", "vectors across the channels of depthwise layers, planes turned over", why_not_channels,
       many_groups, forward_by<&Engine::channels>},
      {"winograd", "F(4x4, 3x3): 49 products for 16 results of a 3x3 filter instead of 144", why_not_winograd_forward,
       suits_winograd_forward, forward_by<&Engine::winograd>},
      {"amx", "tiles of outputs x channels on the matrix unit, float32 as three exact terms", why_not_amx_forward,
       suits_amx_forward, forward_amx},
      {"bfloat16_pairs", "the same on vectors that multiply pairs of bfloat16", why_not_pairs_forward,
       suits_pairs_forward, forward_pairs},
      {"pixel_rows", "vectors across the pixels of rows, in place, for one output a group", why_not_pixel_rows_forward,
       suits_pixel_rows_forward, forward_by<&Engine::pixel_rows>},
      {"pixels", "vectors across pixels, for few channels a group and pointwise layers", why_not_engine,
       suits_pixels_forward, forward_by<&Engine::pixels>},
      {"panels", "register tiles of outputs x channels over packed panels, for small planes", why_not_engine,
       suits_panels_forward, forward_by<&Engine::panels>},
      {"outer_product", "register tiles of outputs x channels over a packed input tile", why_not_engine, always,
       forward_by<&Engine::outer_product>},
      {"reference", "the definition, a row at a time", can_do_all, always, forward_reference},
  };
  static const AlgorithmList grad_input = {
      {"depthwise", "vectors across the pixels of planes, in place, masks for padding", why_not_in_place_grad_input,
       better_in_place_grad_input, grad_input_by<&Engine::in_place>},
      {"depthwise_channels", "vectors across the channels of depthwise layers, planes turned over",
       why_not_channels_grad_input, many_groups, grad_input_by<&Engine::channels>},
      {"winograd", "the forward kernel on y, one phase of the stride at a time", why_not_winograd_grad_input,
       suits_winograd_grad_input, grad_input_by<&Engine::winograd>},
      {"amx", "the forward kernel on y, one phase of the stride at a time, on the matrix unit", why_not_amx_grad_input,
       suits_amx_grad_input, grad_input_amx},
      {"bfloat16_pairs", "the same on vectors that multiply pairs of bfloat16", why_not_pairs_grad_input,
       suits_pairs_grad_input, grad_input_pairs},
      {"pixel_rows", "vectors across the pixels of rows, in place, for one output a group",
       why_not_pixel_rows_grad_input, suits_pixel_rows_grad_input, grad_input_by<&Engine::pixel_rows>},
      {"pixels", "vectors across pixels, for few channels a group and pointwise layers", why_not_engine,
       suits_pixels_grad_input, grad_input_by<&Engine::pixels>},
      {"panels", "the forward kernel on y, one phase of the stride at a time, for small planes", why_not_engine,
       suits_panels_grad_input, grad_input_by<&Engine::panels>},
      {"outer_product", "the forward kernel on y, one phase of the stride at a time", why_not_engine, always,
       grad_input_by<&Engine::outer_product>},
      {"scatter", "each y stamps the kernel onto x, a plane to a thread", can_do_all, only_when_forced,
       grad_input_scatter},
      {"reference", "the definition in gather form, a row at a time", can_do_all, always, grad_input_reference},
  };
  static const AlgorithmList grad_weight = {
      {"depthwise", "vectors across the pixels of planes, in place, masks for padding", why_not_in_place_grad_weight,
       better_in_place_grad_weight, grad_weight_by<&Engine::in_place>},
      {"depthwise_channels", "vectors across the channels of depthwise layers, planes turned over", why_not_channels,
       many_groups, grad_weight_by<&Engine::channels>},
      {"winograd", "F(4x4, 3x3)'s derivative by the filter: 49 products for 16 pixels instead of 144",
       why_not_winograd_grad_weight, suits_winograd_grad_weight, grad_weight_by_shares<&Engine::winograd>},
      {"amx", "tiles of outputs x channels on the matrix unit, a loop over pixels", why_not_amx_grad_weight,
       suits_amx_grad_weight, grad_weight_amx},
      {"bfloat16_pairs", "the same on vectors that multiply pairs of bfloat16", why_not_pairs_grad_weight,
       suits_pairs_grad_weight, grad_weight_pairs},
      {"pixels", "vectors across pixels, for few channels a group", why_not_engine, small_groups,
       grad_weight_by_shares<&Engine::pixels>},
      {"outer_product", "register tiles of outputs x channels, a loop over pixels", why_not_engine, always,
       grad_weight_by_shares<&Engine::outer_product>},
      {"reference", "the definition, a tap at a time", can_do_all, always, grad_weight_reference},
  };
  switch (primitive) {
    case Primitive::forward: return forward;
    case Primitive::grad_input: return grad_input;
    case Primitive::grad_weight: break;
  }
  return grad_weight;
}

}  // namespace cpu
}  // namespace convx
