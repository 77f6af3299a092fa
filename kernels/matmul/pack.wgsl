// pack: a weight matrix into the blocks that cpu.wgsl and cpu_quad.wgsl read, for weights that change (training).
//
//   w        [out_count, in_count]  f32   PyTorch's layout; [in_count, out_count] when W_IS_KN
//   packed   [ceil(out_count / (4 * LANES))][in_count / 4][LANES] mat4x4f:
//            in block (c, i, lane), column q, row j is weight[out = (c * LANES + lane) * 4 + j][in = 4 * i + q],
//            zero where out >= out_count
//
// out_count and in_count are multiples of 4. A linear layer w [n, k] packs for y = x . w^T with out = n, in = k, and
// for dx = dy . w, whose weight is w^T, with out = k, in = n and W_IS_KN.
// One invocation a block. Grid: min(g, 65535) x ceil(g / 65535), g = ceil(blocks / 64).
requires immediate_address_space;

const LANES: u32 = 8;  // of the matmul kernel

override W_IS_KN: bool = false;

struct Params { out_count: u32, in_count: u32 }

@group(0) @binding(0) var<storage, read> w: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> packed: array<mat4x4f>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let at = (group.y * groups.x + group.x) * 64 + index;
  let in_quads = params.in_count / 4;
  let out_quads = params.out_count / 4;
  let c = at / (LANES * in_quads);
  if (c * LANES >= out_quads) { return; }

  let in_quad = at / LANES % in_quads;
  let out_quad = c * LANES + at % LANES;
  var cell = mat4x4f();
  if (out_quad < out_quads) {
    for (var i = 0u; i < 4; i++) {
      if (W_IS_KN) {
        cell[i] = w[(in_quad * 4 + i) * out_quads + out_quad];
      } else {
        cell[i] = w[(out_quad * 4 + i) * in_quads + in_quad];
      }
    }
    if (!W_IS_KN) { cell = transpose(cell); }
  }
  packed[at] = cell;
}
