// replace_masked: the rows of masked tokens become the mask token, in place; buffer slots stay.
// For the single encoder (no MAE): it sees mask tokens, put in after positions and norm, so they carry no position.
//
//   slot       [>= offset + batch * grid] u32   MASKED where the token is masked
//   mask_token [width]                    f32
//   y          [batch, buffer + grid, width] f32
//
// One invocation an element. Grid: ceil(batch * (buffer + grid) * width / 64), folded over y beyond 32768.
requires immediate_address_space;

const MASKED: u32 = 0xffffffffu;

struct Params { batch: u32, buffer: u32, grid: u32, width: u32, offset: u32 }

@group(0) @binding(0) var<storage, read> slot: array<u32>;
@group(0) @binding(1) var<storage, read> mask_token: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let at = id.y * 32768 * 64 + id.x;
  let length = params.buffer + params.grid;
  if (at >= params.batch * length * params.width) { return; }
  let b = at / params.width / length;
  let j = at / params.width % length;
  if (j < params.buffer) { return; }
  if (slot[params.offset + b * params.grid + j - params.buffer] == MASKED) { y[at] = mask_token[at % params.width]; }
}
