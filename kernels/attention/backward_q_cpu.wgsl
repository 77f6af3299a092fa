// attention backward, gradient of q, for CPU drivers: one subgroup a workgroup.
//
// Equations and operands as in backward_q_reference.wgsl; q, k, v, d_out and d_q are bound as vec4s: HEAD_DIM, every
// stride and every offset must be multiples of 4 (elements); any other size goes to the reference.
// Work is divided as in cpu.wgsl: a workgroup has ROWS queries; for scores and d_out . v a lane owns 4 keys, for
// the gradient the vec4 columns lane, lane + LANES, ... Scores and d_out . v have a loop each, so that more rows
// stay near. ROWS (a multiple of LANES) does not change a sum's order.
// Grid: (ceil(q_len / ROWS), heads, batch). No workgroup memory, no barriers.
requires immediate_address_space;
enable subgroups;

alias Elem4 = vec4<f32>;              // vec4<f16> for f16 storage; sums are f32
const HEAD_DIM: u32 = 64;
const LANES: u32 = 8;                 // the adapter's subgroup size
const ROWS: u32 = 8;                  // queries of a workgroup, a multiple of LANES
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

/** sum + m x, in the order of x's elements. */
fn add_product(sum: vec4f, m: mat4x4f, x: vec4f) -> vec4f {
  return fma(m[3], vec4f(x[3]), fma(m[2], vec4f(x[2]), fma(m[1], vec4f(x[1]), fma(m[0], vec4f(x[0]), sum))));
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

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = group.x * ROWS;
  let head = group.y;
  let b = group.z;
  let kv_stride = params.kv_stride / 4;
  let kv_at = b * params.kv_len * kv_stride + head * QUADS;
  let k_at = kv_at + params.k_offset / 4;
  let v_at = kv_at + params.v_offset / 4;
  let stat_at = (b * params.heads + head) * params.q_len;
  let last_q = params.q_len - 1;
  let last_kv = params.kv_len - 1;

  // Rows past the end read the last one and are not written.
  var q_row: array<u32, ROWS / LANES>;
  var out_row: array<u32, ROWS / LANES>;
  for (var g = 0u; g < ROWS / LANES; g++) {
    let row = b * params.q_len + min(first + g * LANES + lane, last_q);
    q_row[g] = (row * params.q_stride + params.q_offset) / 4 + head * QUADS;
    out_row[g] = (row * params.heads + head) * QUADS;
  }
  var site: vec2u;
  if (DROPOUT) { site = head_key(b * params.heads + head); }
  var acc = array<array<vec4f, ROWS>, SPANS>();
  var norm: array<f32, ROWS>;
  var subtract: array<f32, ROWS>;
  for (var r = 0u; r < ROWS; r++) {
    let stat = stat_at + min(first + r, last_q);
    norm[r] = lse[stat];
    subtract[r] = delta[stat];
  }

  for (var tile = 0u; tile < params.kv_len; tile += 4 * LANES) {
    // s[r][n]: score of query r and key tile + n * LANES + lane; dp: d_out . v of the same two.
    var s = array<vec4f, ROWS>();
    var dp = array<vec4f, ROWS>();
    var row: array<u32, 4>;
    for (var n = 0u; n < 4; n++) { row[n] = min(tile + n * LANES + lane, last_kv) * kv_stride; }
    for (var c = 0u; c < QUADS; c++) {
      let keys = transpose(mat4x4f(
        vec4f(k[row[0] + k_at + c]), vec4f(k[row[1] + k_at + c]),
        vec4f(k[row[2] + k_at + c]), vec4f(k[row[3] + k_at + c])));
      for (var g = 0u; g < ROWS / LANES; g++) {
        let q_part = vec4f(q[q_row[g] + c]);
        for (var r = 0u; r < LANES; r++) {
          let i = g * LANES + r;
          s[i] = add_product(s[i], keys, subgroupShuffle(q_part, r));
        }
      }
    }
    for (var c = 0u; c < QUADS; c++) {
      let values = transpose(mat4x4f(
        vec4f(v[row[0] + v_at + c]), vec4f(v[row[1] + v_at + c]),
        vec4f(v[row[2] + v_at + c]), vec4f(v[row[3] + v_at + c])));
      for (var g = 0u; g < ROWS / LANES; g++) {
        let d_part = vec4f(d_out[out_row[g] + c]);
        for (var r = 0u; r < LANES; r++) {
          let i = g * LANES + r;
          dp[i] = add_product(dp[i], values, subgroupShuffle(d_part, r));
        }
      }
    }

    let key = vec4u(0, 1, 2, 3) * LANES + tile + lane;
    let present = key < vec4u(params.kv_len);
    for (var r = 0u; r < ROWS; r++) {
      if (DROPOUT) { dp[r] *= kept(site, (first + r) * 65536 + key); }
      let p = exp(s[r] * params.scale - norm[r]);
      s[r] = select(vec4f(), p * (dp[r] - subtract[r]), present);
    }

    for (var n = 0u; n < 4; n++) {
      for (var l = 0u; l < LANES; l++) {
        let at = k_at + min(tile + n * LANES + l, last_kv) * kv_stride;
        for (var t = 0u; t < SPANS; t++) {
          let key_part = vec4f(k[at + min(t * LANES + lane, QUADS - 1)]);
          for (var r = 0u; r < ROWS; r++) { acc[t][r] = fma(vec4f(subgroupShuffle(s[r][n], l)), key_part, acc[t][r]); }
        }
      }
    }
  }

  for (var r = 0u; r < ROWS; r++) {
    let i = first + r;
    if (i >= params.q_len) { break; }
    let at = ((b * params.q_len + i) * params.q_stride + params.q_offset) / 4 + head * QUADS;
    for (var t = 0u; t < SPANS; t++) {
      if (t * LANES + lane < QUADS) { d_q[at + t * LANES + lane] = Elem4(acc[t][r] * params.scale); }
    }
  }
}
