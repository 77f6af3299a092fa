// attention, reference version: out = softmax(scale * q kT) v for every image and head.
//
//   out[b, i, h, :] = sum_j p_ij v[b, j, h, :],   p_ij = softmax_j(scale * q[b, i, h, :] . k[b, j, h, :])
//
//   q        element (b, i, h, c) at (b * q_len + i) * q_stride + q_offset + h * HEAD_DIM + c
//   k, v     element (b, j, h, c) at (b * kv_len + j) * kv_stride + k_offset (v_offset) + h * HEAD_DIM + c
//   out      [batch, q_len, heads * HEAD_DIM]  contiguous
//   lse      [batch, heads, q_len]  f32, log sum_j exp(scale * q_i . k_j); written with STORE_LSE only
//
// q, k, v may be one buffer: for a fused qkv [batch, len, 3, heads, HEAD_DIM] the strides are 3 * heads * HEAD_DIM
// and the offsets 0, 1 and 2 times heads * HEAD_DIM. scale is 1 / sqrt(HEAD_DIM) in Vaswani et al. 2017, equation 1.
//
// Any head dim, any lengths (kv_len >= 1). One invocation a query; keys are walked twice: the maximum, then
// the sums about it. Grid: (ceil(q_len / 64), heads, batch). No workgroup memory.
// For reading and checking; faster siblings: flash.wgsl (GPUs), cpu.wgsl (CPU drivers).
requires immediate_address_space;

alias Elem = f32;                     // f16 for f16 storage; sums are f32
const HEAD_DIM: u32 = 64;
override STORE_LSE: bool = false;

struct Params {
  batch: u32, heads: u32, q_len: u32, kv_len: u32,
  q_stride: u32, q_offset: u32,
  kv_stride: u32, k_offset: u32, v_offset: u32,
  scale: f32,
}

@group(0) @binding(0) var<storage, read> q: array<Elem>;
@group(0) @binding(1) var<storage, read> k: array<Elem>;
@group(0) @binding(2) var<storage, read> v: array<Elem>;
@group(0) @binding(3) var<storage, read_write> out: array<Elem>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
var<immediate> params: Params;

fn score(q_at: u32, k_at: u32) -> f32 {
  var sum = 0.0;
  for (var c = 0u; c < HEAD_DIM; c++) { sum += f32(q[q_at + c]) * f32(k[k_at + c]); }
  return sum * params.scale;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.x;
  let h = id.y;
  let b = id.z;
  if (i >= params.q_len) { return; }
  let q_at = (b * params.q_len + i) * params.q_stride + params.q_offset + h * HEAD_DIM;
  let kv_at = b * params.kv_len * params.kv_stride + h * HEAD_DIM;

  var top = score(q_at, kv_at + params.k_offset);
  for (var j = 1u; j < params.kv_len; j++) {
    top = max(top, score(q_at, kv_at + j * params.kv_stride + params.k_offset));
  }

  var sum = 0.0;
  var acc: array<f32, HEAD_DIM>;
  for (var j = 0u; j < params.kv_len; j++) {
    let row = kv_at + j * params.kv_stride;
    let p = exp(score(q_at, row + params.k_offset) - top);
    sum += p;
    for (var c = 0u; c < HEAD_DIM; c++) { acc[c] += p * f32(v[row + params.v_offset + c]); }
  }

  let out_at = ((b * params.q_len + i) * params.heads + h) * HEAD_DIM;
  for (var c = 0u; c < HEAD_DIM; c++) { out[out_at + c] = Elem(acc[c] / sum); }
  if (STORE_LSE) { lse[(b * params.heads + h) * params.q_len + i] = top + log(sum); }
}
