// attention backward, first of three: delta[b, h, i] = sum_c d_out[b, i, h, c] * out[b, i, h, c].
//
// It equals sum_j p_ij dp_ij, the term that softmax's gradient subtracts (Dao et al. 2022, appendix B.4).
//   out, d_out  [batch, q_len, heads * HEAD_DIM]  contiguous
//   delta       [batch, heads, q_len]             f32
//
// Any head dim. One invocation a query of a head. Grid: (ceil(q_len / 64), heads, batch).
// Then backward_q*.wgsl and backward_kv*.wgsl, in either order. The params are those of the forward pass.
requires immediate_address_space;

alias Elem = f32;                     // f16 for f16 storage; sums are f32
const HEAD_DIM: u32 = 64;

struct Params {
  batch: u32, heads: u32, q_len: u32, kv_len: u32,
  q_stride: u32, q_offset: u32,
  kv_stride: u32, k_offset: u32, v_offset: u32,
  scale: f32,
}

@group(0) @binding(0) var<storage, read> out: array<Elem>;
@group(0) @binding(1) var<storage, read> d_out: array<Elem>;
@group(0) @binding(2) var<storage, read_write> delta: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.x;
  let h = id.y;
  let b = id.z;
  if (i >= params.q_len) { return; }
  let at = ((b * params.q_len + i) * params.heads + h) * HEAD_DIM;
  var sum = 0.0;
  for (var c = 0u; c < HEAD_DIM; c++) { sum += f32(out[at + c]) * f32(d_out[at + c]); }
  delta[(b * params.heads + h) * params.q_len + i] = sum;
}
