// attention backward, gradients of k and v, for CPU drivers: one subgroup a workgroup.
//
// Equations and operands as in backward_kv_reference.wgsl; q, k, v, d_out and d_kv are bound as vec4s: HEAD_DIM,
// every stride and every offset must be multiples of 4 (elements); any other size goes to the reference.
// backward_q_cpu.wgsl with queries and keys exchanged: a workgroup has ROWS keys; for scores and d_out . v a lane
// owns 4 queries, for the gradients the vec4 columns lane, lane + LANES, ... Each of the four products has a loop of
// its own, so that more rows stay near. ROWS (a multiple of LANES) does not change a sum's order. Every key belongs to
// one workgroup, so nothing is added from two places.
// Grid: (ceil(kv_len / ROWS), heads, batch). No workgroup memory, no barriers.
requires immediate_address_space;
enable subgroups;

alias Elem4 = vec4<f32>;              // vec4<f16> for f16 storage; sums are f32
const HEAD_DIM: u32 = 64;
const LANES: u32 = 8;                 // the adapter's subgroup size
const ROWS: u32 = 8;                  // keys of a workgroup, a multiple of LANES
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
  let q_stride = params.q_stride / 4;
  let out_stride = params.heads * QUADS;
  let kv_stride = params.kv_stride / 4;
  let q_at = b * params.q_len * q_stride + params.q_offset / 4 + head * QUADS;
  let out_at = b * params.q_len * out_stride + head * QUADS;
  let kv_at = b * params.kv_len * kv_stride + head * QUADS;
  let k_at = kv_at + params.k_offset / 4;
  let v_at = kv_at + params.v_offset / 4;
  let stat_at = (b * params.heads + head) * params.q_len;
  let last_q = params.q_len - 1;

  // Rows past the end read the last one and are not written.
  var kv_row: array<u32, ROWS / LANES>;
  for (var g = 0u; g < ROWS / LANES; g++) {
    kv_row[g] = min(first + g * LANES + lane, params.kv_len - 1) * kv_stride;
  }
  var site: vec2u;
  if (DROPOUT) { site = head_key(b * params.heads + head); }
  var d_k = array<array<vec4f, ROWS>, SPANS>();
  var d_v = array<array<vec4f, ROWS>, SPANS>();

  for (var tile = 0u; tile < params.q_len; tile += 4 * LANES) {
    // s[r][n]: score of key r and query tile + n * LANES + lane; dp: d_out . v of the same two.
    var s = array<vec4f, ROWS>();
    var dp = array<vec4f, ROWS>();
    let query = vec4u(0, 1, 2, 3) * LANES + tile + lane;
    let row = min(query, vec4u(last_q));
    let q_row = q_at + row * q_stride;
    let out_row = out_at + row * out_stride;
    for (var c = 0u; c < QUADS; c++) {
      let queries = transpose(mat4x4f(
        vec4f(q[q_row[0] + c]), vec4f(q[q_row[1] + c]), vec4f(q[q_row[2] + c]), vec4f(q[q_row[3] + c])));
      for (var g = 0u; g < ROWS / LANES; g++) {
        let k_part = vec4f(k[k_at + kv_row[g] + c]);
        for (var r = 0u; r < LANES; r++) {
          let j = g * LANES + r;
          s[j] = add_product(s[j], queries, subgroupShuffle(k_part, r));
        }
      }
    }
    for (var c = 0u; c < QUADS; c++) {
      let d_outs = transpose(mat4x4f(
        vec4f(d_out[out_row[0] + c]), vec4f(d_out[out_row[1] + c]),
        vec4f(d_out[out_row[2] + c]), vec4f(d_out[out_row[3] + c])));
      for (var g = 0u; g < ROWS / LANES; g++) {
        let v_part = vec4f(v[v_at + kv_row[g] + c]);
        for (var r = 0u; r < LANES; r++) {
          let j = g * LANES + r;
          dp[j] = add_product(dp[j], d_outs, subgroupShuffle(v_part, r));
        }
      }
    }

    let stat = stat_at + row;
    let norm = vec4f(lse[stat[0]], lse[stat[1]], lse[stat[2]], lse[stat[3]]);
    let subtract = vec4f(delta[stat[0]], delta[stat[1]], delta[stat[2]], delta[stat[3]]);
    let present = query < vec4u(params.q_len);
    for (var r = 0u; r < ROWS; r++) {
      let p = select(vec4f(), exp(s[r] * params.scale - norm), present);
      var weight = p;
      if (DROPOUT) {
        let factor = kept(site, query * 65536 + (first + r));
        weight *= factor;
        dp[r] *= factor;
      }
      dp[r] = p * (dp[r] - subtract);
      s[r] = weight;
    }

    for (var n = 0u; n < 4; n++) {
      for (var l = 0u; l < LANES; l++) {
        let at = out_at + min(tile + n * LANES + l, last_q) * out_stride;
        for (var t = 0u; t < SPANS; t++) {
          let part = vec4f(d_out[at + min(t * LANES + lane, QUADS - 1)]);
          for (var r = 0u; r < ROWS; r++) { d_v[t][r] = fma(vec4f(subgroupShuffle(s[r][n], l)), part, d_v[t][r]); }
        }
      }
    }
    for (var n = 0u; n < 4; n++) {
      for (var l = 0u; l < LANES; l++) {
        let at = q_at + min(tile + n * LANES + l, last_q) * q_stride;
        for (var t = 0u; t < SPANS; t++) {
          let part = vec4f(q[at + min(t * LANES + lane, QUADS - 1)]);
          for (var r = 0u; r < ROWS; r++) { d_k[t][r] = fma(vec4f(subgroupShuffle(dp[r][n], l)), part, d_k[t][r]); }
        }
      }
    }
  }

  for (var r = 0u; r < ROWS; r++) {
    let j = first + r;
    if (j >= params.kv_len) { break; }
    for (var t = 0u; t < SPANS; t++) {
      let column = t * LANES + lane;
      if (column < QUADS) {
        d_kv[k_at + j * kv_stride + column] = Elem4(d_k[t][r] * params.scale);
        d_kv[v_at + j * kv_stride + column] = Elem4(d_v[t][r]);
      }
    }
  }
}
