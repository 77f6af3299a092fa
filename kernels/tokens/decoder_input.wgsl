// decoder_input: the encoder's rows put back in their places, mask tokens where there is none; plus positions.
//
//   x          [batch, from, width]  f32   encoder rows after the decoder's embedding: buffer, then visible tokens
//   slot       [>= offset + batch * grid] u32   row of x for each grid position, MASKED where it is masked
//   mask_token [width]               f32
//   position   [buffer + grid, width] f32
//   y          [batch, buffer + grid, width] f32
//
// One invocation an element. Grid: ceil(batch * (buffer + grid) * width / 64), folded over y beyond 32768.
requires immediate_address_space;

const MASKED: u32 = 0xffffffffu;

struct Params { batch: u32, buffer: u32, grid: u32, from_rows: u32, width: u32, offset: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> slot: array<u32>;
@group(0) @binding(2) var<storage, read> mask_token: array<f32>;
@group(0) @binding(3) var<storage, read> position: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let at = id.y * 32768 * 64 + id.x;
  let length = params.buffer + params.grid;
  if (at >= params.batch * length * params.width) { return; }
  let column = at % params.width;
  let b = at / params.width / length;
  let j = at / params.width % length;

  var row = j;
  if (j >= params.buffer) { row = slot[params.offset + b * params.grid + j - params.buffer]; }
  var value: f32;
  if (row == MASKED) {
    value = mask_token[column];
  } else {
    value = x[(b * params.from_rows + row) * params.width + column];
  }
  y[at] = value + position[j * params.width + column];
}
