// decoder_input backward, gradient of the encoder's rows; that of the mask token: mask_token_backward.wgsl, that of the
// positions: position_backward.wgsl.
//
//   d_x[b, j, :] = d_y[b, j, :] for the buffer slots j;   d_x[b, buffer + i, :] = d_y[b, buffer + visible[b, i], :]
//
//   d_y     [batch, buffer + grid, width] f32
//   visible [>= offset + batch * (from_rows - buffer)] u32   grid position of each visible token: the inverse of slot
//   d_x     [batch, from_rows, width]     f32   written
//
// width is counted in Vecs. One invocation a Vec of d_x.
// Grid: ceil(batch * from_rows * width / 64), folded over y beyond 32768.
requires immediate_address_space;

alias Vec = vec4<f32>;                // f32: a width that is not a multiple of 4

struct Params { batch: u32, buffer: u32, grid: u32, from_rows: u32, width: u32, offset: u32 }

@group(0) @binding(0) var<storage, read> d_y: array<Vec>;
@group(0) @binding(1) var<storage, read> visible: array<u32>;
@group(0) @binding(2) var<storage, read_write> d_x: array<Vec>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let at = id.y * 32768 * 64 + id.x;
  if (at >= params.batch * params.from_rows * params.width) { return; }
  let b = at / params.width / params.from_rows;
  var row = at / params.width % params.from_rows;
  if (row >= params.buffer) {
    let token = b * (params.from_rows - params.buffer) + row - params.buffer;
    row = params.buffer + visible[params.offset + token];
  }
  d_x[at] = d_y[(b * (params.buffer + params.grid) + row) * params.width + at % params.width];
}
