// attention backward, gradient of q, reference version: from the forward pass only lse is kept.
//
//   p_ij  = exp(scale * q_i . k_j - lse_i)
//   ds_ij = p_ij (m_ij d_out_i . v_j - delta_i)      delta: backward_delta.wgsl
//   d_q_i = scale * sum_j ds_ij k_j                  (Dao et al. 2022, appendix B.4)
//   m_ij: 1, or with DROPOUT what it multiplied the weight by, made again as in reference.wgsl
//
//   q, k, v, lse, keys  as in the forward pass (reference.wgsl)
//   d_out         [batch, q_len, heads * HEAD_DIM]  contiguous
//   delta         [batch, heads, q_len]  f32
//   d_q           laid out as q: q_stride, q_offset; written. For a fused qkv d_q and d_kv are one buffer.
//
// Any head dim, any lengths. One invocation a query of a head. Grid: (ceil(q_len / 64), heads, batch).
// For reading and checking; faster sibling: backward_q_cpu.wgsl.
requires immediate_address_space;

alias Elem = f32;                     // f16 for f16 storage; sums are f32
const HEAD_DIM: u32 = 64;
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
@group(0) @binding(3) var<storage, read> d_out: array<Elem>;
@group(0) @binding(4) var<storage, read> lse: array<f32>;
@group(0) @binding(5) var<storage, read> delta: array<f32>;
@group(0) @binding(6) var<storage, read_write> d_q: array<Elem>;
@group(0) @binding(7) var<storage, read> keys: array<vec2u>;
var<immediate> params: Params;

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
  let out_at = ((b * params.q_len + i) * params.heads + h) * HEAD_DIM;
  let stat = (b * params.heads + h) * params.q_len + i;

  var site: vec2u;
  if (DROPOUT) { site = head_key(b * params.heads + h); }

  var acc: array<f32, HEAD_DIM>;
  for (var j = 0u; j < params.kv_len; j++) {
    let row = (b * params.kv_len + j) * params.kv_stride + h * HEAD_DIM;
    let k_at = row + params.k_offset;
    let v_at = row + params.v_offset;
    var s = 0.0;
    var dp = 0.0;
    for (var c = 0u; c < HEAD_DIM; c++) {
      s += f32(q[q_at + c]) * f32(k[k_at + c]);
      dp += f32(d_out[out_at + c]) * f32(v[v_at + c]);
    }
    if (DROPOUT) { dp *= kept(site, i * 65536 + j); }
    let ds = exp(params.scale * s - lse[stat]) * (dp - delta[stat]);
    for (var c = 0u; c < HEAD_DIM; c++) { acc[c] += ds * f32(k[k_at + c]); }
  }
  for (var c = 0u; c < HEAD_DIM; c++) { d_q[q_at + c] = Elem(params.scale * acc[c]); }
}
