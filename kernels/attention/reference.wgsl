// attention, reference version: out = softmax(scale * q kT) v for every image and head.
//
//   out[b, i, h, :] = sum_j p_ij v[b, j, h, :],   p_ij = softmax_j(scale * q[b, i, h, :] . k[b, j, h, :])
//
//   q        element (b, i, h, c) at (b * q_len + i) * q_stride + q_offset + h * HEAD_DIM + c
//   k, v     element (b, j, h, c) at (b * kv_len + j) * kv_stride + k_offset (v_offset) + h * HEAD_DIM + c
//   out      [batch, q_len, heads * HEAD_DIM]  contiguous
//   lse      [batch, heads, q_len]  f32, log sum_j exp(scale * q_i . k_j); written with STORE_LSE only
//   keys     [>= dropout_row + 1, 2]  u32, read with DROPOUT only
//
// With DROPOUT p_ij is multiplied by 0 or kept_scale = 1 / (1 - probability) after the softmax (training): by the bits
// of random/dropout.wgsl, counter i * 65536 + j (lengths below 65536), under a key that the bits of b * heads + h make.
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
override DROPOUT: bool = false;

struct Params {
  batch: u32, heads: u32, q_len: u32, kv_len: u32,
  q_stride: u32, q_offset: u32,
  kv_stride: u32, k_offset: u32, v_offset: u32,
  scale: f32,
  dropout_row: u32, threshold: u32, kept_scale: f32,
}

@group(0) @binding(0) var<storage, read> q: array<Elem>;
@group(0) @binding(1) var<storage, read> k: array<Elem>;
@group(0) @binding(2) var<storage, read> v: array<Elem>;
@group(0) @binding(3) var<storage, read_write> out: array<Elem>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<storage, read> keys: array<vec2u>;
var<immediate> params: Params;

fn score(q_at: u32, k_at: u32) -> f32 {
  var sum = 0.0;
  for (var c = 0u; c < HEAD_DIM; c++) { sum += f32(q[q_at + c]) * f32(k[k_at + c]); }
  return sum * params.scale;
}

/** As in random/dropout.wgsl. */
fn random_bits(key: vec2u, counter: u32) -> u32 {
  var v = counter + key.x;
  v = ((v ^ (v >> 17)) + key.y) * 0xed5ad4bb;
  v = (v ^ (v >> 11)) * 0xac4c1b51;
  v = (v ^ (v >> 15)) * 0x31848bab;
  return v ^ (v >> 14);
}

/** The dropout key of head number b * heads + h. */
fn head_key(number: u32) -> vec2u {
  let key = keys[params.dropout_row];
  return vec2u(random_bits(key, 2 * number), random_bits(key, 2 * number + 1));
}

/** What dropout multiplies a weight by, whose query and key are query * 65536 + key. */
fn kept(site: vec2u, pair: u32) -> f32 {
  return select(0.0, params.kept_scale, random_bits(site, pair) >= params.threshold);
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

  var site: vec2u;
  if (DROPOUT) { site = head_key(b * params.heads + h); }

  var sum = 0.0;
  var acc: array<f32, HEAD_DIM>;
  for (var j = 0u; j < params.kv_len; j++) {
    let row = kv_at + j * params.kv_stride;
    let p = exp(score(q_at, row + params.k_offset) - top);
    sum += p;
    var weight = p;
    if (DROPOUT) { weight *= kept(site, i * 65536 + j); }
    for (var c = 0u; c < HEAD_DIM; c++) { acc[c] += weight * f32(v[row + params.v_offset + c]); }
  }

  let out_at = ((b * params.q_len + i) * params.heads + h) * HEAD_DIM;
  for (var c = 0u; c < HEAD_DIM; c++) { out[out_at + c] = Elem(acc[c] / sum); }
  if (STORE_LSE) { lse[(b * params.heads + h) * params.q_len + i] = top + log(sum); }
}
