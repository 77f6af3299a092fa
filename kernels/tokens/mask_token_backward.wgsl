// Gradient of the mask token, first of two: sums over CHUNK grid positions of one batch entry. The second,
// bias_grad.wgsl, adds up the chunks.
//
//   partial[b, k, :] = sum of d_y[b, buffer + g, :] over the masked g of k CHUNK <= g < (k + 1) CHUNK
//
//   slot    [>= offset + batch * grid]            u32   MASKED where the mask token stood
//   d_y     [batch, buffer + grid, width]         f32   with ZERO the masked rows become 0, in place: replace_masked
//                                                       let nothing through there
//   partial [batch, ceil(grid / CHUNK), width]    f32   written
//
// width is counted in Vecs. One invocation a Vec of partial.
// Grid: ceil(batch * ceil(grid / CHUNK) * width / 64), folded over y beyond 32768.
requires immediate_address_space;

alias Vec = vec4<f32>;                // f32: a width that is not a multiple of 4
const CHUNK: u32 = 32;
const MASKED: u32 = 0xffffffffu;
override ZERO: bool = false;

struct Params { batch: u32, buffer: u32, grid: u32, width: u32, offset: u32 }

@group(0) @binding(0) var<storage, read> slot: array<u32>;
@group(0) @binding(1) var<storage, read_write> d_y: array<Vec>;
@group(0) @binding(2) var<storage, read_write> partial: array<Vec>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let at = id.y * 32768 * 64 + id.x;
  let chunks = (params.grid + CHUNK - 1) / CHUNK;
  if (at >= params.batch * chunks * params.width) { return; }
  let column = at % params.width;
  let b = at / params.width / chunks;
  let first = at / params.width % chunks * CHUNK;
  var sum = Vec(0);
  for (var g = first; g < min(first + CHUNK, params.grid); g++) {
    if (slot[params.offset + b * params.grid + g] == MASKED) {
      let place = (b * (params.buffer + params.grid) + params.buffer + g) * params.width + column;
      sum += d_y[place];
      if (ZERO) { d_y[place] = Vec(0); }
    }
  }
  partial[at] = sum;
}
