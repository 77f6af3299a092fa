// Gradient of position embeddings: d_position[j, :] += sum over the batch, in its order, of d_y[b, row(b, j), :].
//
// Without SLOTS every position has its own row: row(b, j) = j, length = buffer + grid. With SLOTS the buffer's
// positions have theirs, row(b, j) = j, and a grid position g = j - buffer has row slot[b, g], none where it is MASKED.
//
//   d_y        [batch, length, width]      f32
//   slot       [>= offset + batch * grid]  u32   read with SLOTS
//   d_position [buffer + grid, width]      f32   added to
//
// width is counted in Vecs. One invocation a Vec of d_position.
// Grid: ceil((buffer + grid) * width / 64), folded over y beyond 32768.
requires immediate_address_space;

alias Vec = vec4<f32>;                // f32: a width that is not a multiple of 4
const MASKED: u32 = 0xffffffffu;
override SLOTS: bool = false;

struct Params { batch: u32, buffer: u32, grid: u32, length: u32, width: u32, offset: u32 }

@group(0) @binding(0) var<storage, read> d_y: array<Vec>;
@group(0) @binding(1) var<storage, read> slot: array<u32>;
@group(0) @binding(2) var<storage, read_write> d_position: array<Vec>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let at = id.y * 32768 * 64 + id.x;
  if (at >= (params.buffer + params.grid) * params.width) { return; }
  let column = at % params.width;
  let j = at / params.width;
  var sum = Vec(0);
  for (var b = 0u; b < params.batch; b++) {
    var row = j;
    if (SLOTS && j >= params.buffer) { row = slot[params.offset + b * params.grid + j - params.buffer]; }
    if (row != MASKED) { sum += d_y[(b * params.length + row) * params.width + column]; }
  }
  d_position[at] += sum;
}
