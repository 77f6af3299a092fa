// attention backward, gradient of q, for CPU drivers with subgroups of 4 lanes (SwiftShader).
//
// Equations and operands as in backward_q_reference.wgsl; q, k, v, d_out and d_q are bound as vec4s: HEAD_DIM, every
// stride and every offset must be multiples of 4 (elements); any other size goes to the reference.
// backward_q_cpu.wgsl in 4 x 4 matrices, for the reasons told in cpu_quad.wgsl: a workgroup has 8 queries, 0..3 in
// the columns of a, 4..7 in those of b; a lane owns 4 consecutive keys of a tile of 16.
// Grid: (ceil(q_len / 8), heads, batch). No workgroup memory, no barriers.
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
@group(0) @binding(6) var<storage, read_write> d_q: array<Elem4>;
@group(0) @binding(7) var<storage, read> keys: array<vec2u>;
var<immediate> params: Params;

const QUADS: u32 = HEAD_DIM / 4;                    // vec4s of a head
const SPANS: u32 = (QUADS + LANES - 1) / LANES;     // vec4s of a gradient a lane owns

/** Something of the 8 queries, a query a column. */
struct Rows { a: mat4x4f, b: mat4x4f }

/** Element r: what lane r holds. */
fn spread_one(x: f32) -> vec4f {
  return vec4f(subgroupBroadcast(x, 0), subgroupBroadcast(x, 1), subgroupBroadcast(x, 2), subgroupBroadcast(x, 3));
}

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

fn load_k(at: vec4u) -> mat4x4f {
  return mat4x4f(vec4f(k[at[0]]), vec4f(k[at[1]]), vec4f(k[at[2]]), vec4f(k[at[3]]));
}
fn load_v(at: vec4u) -> mat4x4f {
  return mat4x4f(vec4f(v[at[0]]), vec4f(v[at[1]]), vec4f(v[at[2]]), vec4f(v[at[3]]));
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

/** What dropout multiplies the weights by of 4 keys (rows) and the 4 queries (columns) from `first` on. */
fn factors(site: vec2u, first: u32, key: vec4u) -> mat4x4f {
  return mat4x4f(
    kept(site, first * 65536 + key), kept(site, (first + 1) * 65536 + key),
    kept(site, (first + 2) * 65536 + key), kept(site, (first + 3) * 65536 + key));
}

/** Element by element. */
fn scaled(m: mat4x4f, by: mat4x4f) -> mat4x4f {
  return mat4x4f(m[0] * by[0], m[1] * by[1], m[2] * by[2], m[3] * by[3]);
}

/** ds of 4 keys (rows) and 4 queries (columns) from their scores and d_out . v; 0 for a key that is not there. */
fn score_gradient(s: mat4x4f, dp: mat4x4f, norm: vec4f, subtract: vec4f, present: vec4<bool>) -> mat4x4f {
  return mat4x4f(
    select(vec4f(), exp(s[0] * params.scale - norm[0]) * (dp[0] - subtract[0]), present),
    select(vec4f(), exp(s[1] * params.scale - norm[1]) * (dp[1] - subtract[1]), present),
    select(vec4f(), exp(s[2] * params.scale - norm[2]) * (dp[2] - subtract[2]), present),
    select(vec4f(), exp(s[3] * params.scale - norm[3]) * (dp[3] - subtract[3]), present));
}

/** acc + m p over a tile: m0 holds the 4 rows of lane 0, one a column, and so on. */
fn add_tile(acc: mat4x4f, p: mat4x4f, m0: mat4x4f, m1: mat4x4f, m2: mat4x4f, m3: mat4x4f) -> mat4x4f {
  return acc + m0 * of_lane0(p) + m1 * of_lane1(p) + m2 * of_lane2(p) + m3 * of_lane3(p);
}

/** Writes one span of 4 queries from `first` on. */
fn store(acc: mat4x4f, first: u32, head: u32, b: u32, column: u32) {
  for (var r = 0u; r < 4; r++) {
    let i = first + r;
    if (i < params.q_len && column < QUADS) {
      let at = ((b * params.q_len + i) * params.q_stride + params.q_offset) / 4 + head * QUADS + column;
      d_q[at] = Elem4(acc[r] * params.scale);
    }
  }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = group.x * 8;
  let head = group.y;
  let b = group.z;
  let kv_stride = params.kv_stride / 4;
  let kv_at = b * params.kv_len * kv_stride + head * QUADS;
  let k_at = kv_at + params.k_offset / 4;
  let v_at = kv_at + params.v_offset / 4;

  // Rows past the end read the last one and are not written. Of a and b: this lane's row of q and of d_out.
  let query = min(first + lane + vec2u(0, 4), vec2u(params.q_len - 1));
  let q_row = ((b * params.q_len + query) * params.q_stride + params.q_offset) / 4 + head * QUADS;
  let out_row = ((b * params.q_len + query) * params.heads + head) * QUADS;
  let stat = (b * params.heads + head) * params.q_len + query;
  let norm = vec2f(lse[stat[0]], lse[stat[1]]);
  let subtract = vec2f(delta[stat[0]], delta[stat[1]]);
  let norm_a = spread_one(norm[0]);
  let norm_b = spread_one(norm[1]);
  let subtract_a = spread_one(subtract[0]);
  let subtract_b = spread_one(subtract[1]);

  var site: vec2u;
  if (DROPOUT) { site = head_key(b * params.heads + head); }
  var acc = array<Rows, SPANS>();

  for (var tile = 0u; tile < params.kv_len; tile += 4 * LANES) {
    let key = tile + lane * 4 + vec4u(0, 1, 2, 3);
    let row = min(key, vec4u(params.kv_len - 1)) * kv_stride;

    var s = Rows();
    var dp = Rows();
    for (var c = 0u; c < QUADS; c++) {
      let keys = transpose(load_k(row + (k_at + c)));
      s.a += keys * spread(vec4f(q[q_row[0] + c]));
      s.b += keys * spread(vec4f(q[q_row[1] + c]));
      let values = transpose(load_v(row + (v_at + c)));
      dp.a += values * spread(vec4f(d_out[out_row[0] + c]));
      dp.b += values * spread(vec4f(d_out[out_row[1] + c]));
    }

    if (DROPOUT) {
      dp.a = scaled(dp.a, factors(site, first, key));
      dp.b = scaled(dp.b, factors(site, first + 4, key));
    }
    let present = key < vec4u(params.kv_len);
    let ds_a = score_gradient(s.a, dp.a, norm_a, subtract_a, present);
    let ds_b = score_gradient(s.b, dp.b, norm_b, subtract_b, present);

    let row0 = subgroupBroadcast(row, 0);
    let row1 = subgroupBroadcast(row, 1);
    let row2 = subgroupBroadcast(row, 2);
    let row3 = subgroupBroadcast(row, 3);
    for (var t = 0u; t < SPANS; t++) {
      let at = k_at + min(t * LANES + lane, QUADS - 1);
      let k0 = load_k(row0 + at);
      let k1 = load_k(row1 + at);
      let k2 = load_k(row2 + at);
      let k3 = load_k(row3 + at);
      acc[t].a = add_tile(acc[t].a, ds_a, k0, k1, k2, k3);
      acc[t].b = add_tile(acc[t].b, ds_b, k0, k1, k2, k3);
    }
  }

  for (var t = 0u; t < SPANS; t++) {
    store(acc[t].a, first, head, b, t * LANES + lane);
    store(acc[t].b, first + 4, head, b, t * LANES + lane);
  }
}
