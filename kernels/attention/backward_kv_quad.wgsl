// attention backward, gradients of k and v, for CPU drivers with subgroups of 4 lanes (SwiftShader).
//
// Equations and operands as in backward_kv_reference.wgsl; q, k, v, d_out and d_kv are bound as vec4s: HEAD_DIM,
// every stride and every offset must be multiples of 4 (elements); any other size goes to the reference.
// backward_kv_cpu.wgsl in 4 x 4 matrices, for the reasons told in cpu_quad.wgsl: a workgroup has 8 keys, 0..3 in the
// columns of a, 4..7 in those of b; a lane owns 4 consecutive queries of a tile of 16.
// Grid: (ceil(kv_len / 8), heads, batch). No workgroup memory, no barriers.
requires immediate_address_space;
enable subgroups;

alias Elem4 = vec4<f32>;              // vec4<f16> for f16 storage; sums are f32
const HEAD_DIM: u32 = 64;
const LANES: u32 = 4;                 // the adapter's subgroup size; nothing else will do
override DROPOUT: bool = false;

struct Params {
  batch: u32, heads: u32, q_len: u32, kv_len: u32,
  q_stride: u32, q_offset: u32,
  kv_stride: u32, k_offset: u32, v_offset: u32,
  scale: f32,
  dropout_row: u32, threshold: u32, kept_scale: f32,
}

@group(0) @binding(0) var<storage, read> q: array<Elem4>;
@group(0) @binding(1) var<storage, read> k: array<Elem4>;
@group(0) @binding(2) var<storage, read> v: array<Elem4>;
@group(0) @binding(3) var<storage, read> d_out: array<Elem4>;
@group(0) @binding(4) var<storage, read> lse: array<f32>;
@group(0) @binding(5) var<storage, read> delta: array<f32>;
@group(0) @binding(6) var<storage, read_write> d_kv: array<Elem4>;
@group(0) @binding(7) var<storage, read> keys: array<vec2u>;
var<immediate> params: Params;

const QUADS: u32 = HEAD_DIM / 4;                    // vec4s of a head
const SPANS: u32 = (QUADS + LANES - 1) / LANES;     // vec4s of a gradient a lane owns

/** Something of the 8 keys, a key a column. */
struct Rows { a: mat4x4f, b: mat4x4f }

/** Column r: what lane r holds. */
fn spread(x: vec4f) -> mat4x4f {
  return mat4x4f(
    subgroupBroadcast(x, 0), subgroupBroadcast(x, 1), subgroupBroadcast(x, 2), subgroupBroadcast(x, 3));
}

// The whole matrix of one lane; a lane to broadcast from must be a constant.
fn of_lane0(m: mat4x4f) -> mat4x4f {
  return mat4x4f(
    subgroupBroadcast(m[0], 0), subgroupBroadcast(m[1], 0), subgroupBroadcast(m[2], 0), subgroupBroadcast(m[3], 0));
}
fn of_lane1(m: mat4x4f) -> mat4x4f {
  return mat4x4f(
    subgroupBroadcast(m[0], 1), subgroupBroadcast(m[1], 1), subgroupBroadcast(m[2], 1), subgroupBroadcast(m[3], 1));
}
fn of_lane2(m: mat4x4f) -> mat4x4f {
  return mat4x4f(
    subgroupBroadcast(m[0], 2), subgroupBroadcast(m[1], 2), subgroupBroadcast(m[2], 2), subgroupBroadcast(m[3], 2));
}
fn of_lane3(m: mat4x4f) -> mat4x4f {
  return mat4x4f(
    subgroupBroadcast(m[0], 3), subgroupBroadcast(m[1], 3), subgroupBroadcast(m[2], 3), subgroupBroadcast(m[3], 3));
}

fn load_q(at: vec4u) -> mat4x4f {
  return mat4x4f(vec4f(q[at[0]]), vec4f(q[at[1]]), vec4f(q[at[2]]), vec4f(q[at[3]]));
}
fn load_d_out(at: vec4u) -> mat4x4f {
  return mat4x4f(vec4f(d_out[at[0]]), vec4f(d_out[at[1]]), vec4f(d_out[at[2]]), vec4f(d_out[at[3]]));
}

/** As in random/dropout.wgsl. */
fn random_bits(key: vec2u, counter: vec4u) -> vec4u {
  var v = counter + key.x;
  v = ((v ^ (v >> vec4u(17))) + key.y) * 0xed5ad4bb;
  v = (v ^ (v >> vec4u(11))) * 0xac4c1b51;
  v = (v ^ (v >> vec4u(15))) * 0x31848bab;
  return v ^ (v >> vec4u(14));
}

/** The dropout key of head number b * heads + head. */
fn head_key(number: u32) -> vec2u {
  return random_bits(keys[params.dropout_row], 2 * number + vec4u(0, 1, 0, 0)).xy;
}

/** What dropout multiplies 4 weights by, whose queries and keys are query * 65536 + key. */
fn kept(site: vec2u, pair: vec4u) -> vec4f {
  return select(vec4f(), vec4f(params.kept_scale), random_bits(site, pair) >= vec4u(params.threshold));
}

/** What dropout multiplies the weights by of 4 queries (rows) and the 4 keys (columns) from `first` on. */
fn factors(site: vec2u, first: u32, query: vec4u) -> mat4x4f {
  return mat4x4f(
    kept(site, query * 65536 + first), kept(site, query * 65536 + (first + 1)),
    kept(site, query * 65536 + (first + 2)), kept(site, query * 65536 + (first + 3)));
}

/** Element by element. */
fn scaled(m: mat4x4f, by: mat4x4f) -> mat4x4f {
  return mat4x4f(m[0] * by[0], m[1] * by[1], m[2] * by[2], m[3] * by[3]);
}

/** p of 4 queries (rows) and 4 keys (columns) from their scores; 0 for a query that is not there. */
fn probabilities(s: mat4x4f, norm: vec4f, present: vec4<bool>) -> mat4x4f {
  return mat4x4f(
    select(vec4f(), exp(s[0] * params.scale - norm), present),
    select(vec4f(), exp(s[1] * params.scale - norm), present),
    select(vec4f(), exp(s[2] * params.scale - norm), present),
    select(vec4f(), exp(s[3] * params.scale - norm), present));
}

/** ds of the same from p and d_out . v. */
fn score_gradient(p: mat4x4f, dp: mat4x4f, subtract: vec4f) -> mat4x4f {
  return mat4x4f(
    p[0] * (dp[0] - subtract), p[1] * (dp[1] - subtract), p[2] * (dp[2] - subtract), p[3] * (dp[3] - subtract));
}

/** acc + m p over a tile: m0 holds the 4 rows of lane 0, one a column, and so on. */
fn add_tile(acc: mat4x4f, p: mat4x4f, m0: mat4x4f, m1: mat4x4f, m2: mat4x4f, m3: mat4x4f) -> mat4x4f {
  return acc + m0 * of_lane0(p) + m1 * of_lane1(p) + m2 * of_lane2(p) + m3 * of_lane3(p);
}

/** Writes one span of 4 keys from `first` on. */
fn store(d_k: mat4x4f, d_v: mat4x4f, first: u32, head: u32, b: u32, column: u32) {
  for (var r = 0u; r < 4; r++) {
    let j = first + r;
    if (j < params.kv_len && column < QUADS) {
      let at = (b * params.kv_len + j) * params.kv_stride / 4 + head * QUADS + column;
      d_kv[at + params.k_offset / 4] = Elem4(d_k[r] * params.scale);
      d_kv[at + params.v_offset / 4] = Elem4(d_v[r]);
    }
  }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = group.x * 8;
  let head = group.y;
  let b = group.z;
  let q_stride = params.q_stride / 4;
  let out_stride = params.heads * QUADS;
  let q_at = b * params.q_len * q_stride + params.q_offset / 4 + head * QUADS;
  let out_at = b * params.q_len * out_stride + head * QUADS;
  let stat_at = (b * params.heads + head) * params.q_len;

  // Rows past the end read the last one and are not written. Of a and b: this lane's row of k and of v.
  let key = min(first + lane + vec2u(0, 4), vec2u(params.kv_len - 1));
  let kv_row = (b * params.kv_len + key) * params.kv_stride / 4 + head * QUADS;
  let k_row = kv_row + params.k_offset / 4;
  let v_row = kv_row + params.v_offset / 4;

  var site: vec2u;
  if (DROPOUT) { site = head_key(b * params.heads + head); }
  var d_k = array<Rows, SPANS>();
  var d_v = array<Rows, SPANS>();

  for (var tile = 0u; tile < params.q_len; tile += 4 * LANES) {
    let query = tile + lane * 4 + vec4u(0, 1, 2, 3);
    let row = min(query, vec4u(params.q_len - 1));
    let q_row = q_at + row * q_stride;
    let out_row = out_at + row * out_stride;

    var s = Rows();
    var dp = Rows();
    for (var c = 0u; c < QUADS; c++) {
      let queries = transpose(load_q(q_row + c));
      s.a += queries * spread(vec4f(k[k_row[0] + c]));
      s.b += queries * spread(vec4f(k[k_row[1] + c]));
      let d_outs = transpose(load_d_out(out_row + c));
      dp.a += d_outs * spread(vec4f(v[v_row[0] + c]));
      dp.b += d_outs * spread(vec4f(v[v_row[1] + c]));
    }

    let stat = stat_at + row;
    let norm = vec4f(lse[stat[0]], lse[stat[1]], lse[stat[2]], lse[stat[3]]);
    let subtract = vec4f(delta[stat[0]], delta[stat[1]], delta[stat[2]], delta[stat[3]]);
    let present = query < vec4u(params.q_len);
    let p_a = probabilities(s.a, norm, present);
    let p_b = probabilities(s.b, norm, present);
    // The weights that the forward pass used: p after dropout.
    var weight_a = p_a;
    var weight_b = p_b;
    if (DROPOUT) {
      let factor_a = factors(site, first, query);
      let factor_b = factors(site, first + 4, query);
      weight_a = scaled(p_a, factor_a);
      weight_b = scaled(p_b, factor_b);
      dp.a = scaled(dp.a, factor_a);
      dp.b = scaled(dp.b, factor_b);
    }
    let ds_a = score_gradient(p_a, dp.a, subtract);
    let ds_b = score_gradient(p_b, dp.b, subtract);

    for (var t = 0u; t < SPANS; t++) {
      let column = min(t * LANES + lane, QUADS - 1);
      let q0 = load_q(subgroupBroadcast(q_row, 0) + column);
      let q1 = load_q(subgroupBroadcast(q_row, 1) + column);
      let q2 = load_q(subgroupBroadcast(q_row, 2) + column);
      let q3 = load_q(subgroupBroadcast(q_row, 3) + column);
      d_k[t].a = add_tile(d_k[t].a, ds_a, q0, q1, q2, q3);
      d_k[t].b = add_tile(d_k[t].b, ds_b, q0, q1, q2, q3);
      let d0 = load_d_out(subgroupBroadcast(out_row, 0) + column);
      let d1 = load_d_out(subgroupBroadcast(out_row, 1) + column);
      let d2 = load_d_out(subgroupBroadcast(out_row, 2) + column);
      let d3 = load_d_out(subgroupBroadcast(out_row, 3) + column);
      d_v[t].a = add_tile(d_v[t].a, weight_a, d0, d1, d2, d3);
      d_v[t].b = add_tile(d_v[t].b, weight_b, d0, d1, d2, d3);
    }
  }

  for (var t = 0u; t < SPANS; t++) {
    store(d_k[t].a, d_v[t].a, first, head, b, t * LANES + lane);
    store(d_k[t].b, d_v[t].b, first + 4, head, b, t * LANES + lane);
  }
}
