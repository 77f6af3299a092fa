// attention for CPU drivers: out = softmax(scale * q kT) v in one pass over the keys, one subgroup a workgroup.
//
// Operands, strides and offsets as in reference.wgsl. Here q, k, v and out are bound as vec4s: HEAD_DIM, every
// stride and every offset must be multiples of 4 (elements); any other size goes to reference.wgsl.
//
// CPU drivers run the lanes of a subgroup as one SIMD register, so the subgroup is the workgroup: no barriers,
// no workgroup memory. Loads cost most. For the scores a lane owns 4 keys in a row and loads of each 4 elements; a
// row of q is loaded by one lane and spread by subgroupShuffle. For the output a lane owns the vec4 columns lane,
// lane + LANES, ... of v, and the probabilities are spread from the lanes that own their keys. So what is loaded
// of K and V serves ROWS queries. Softmax about the running maximum (Milakov & Gimelshein 2018; Dao et al. 2022).
// ROWS, a multiple of LANES, does not change the order of a sum.
// Grid: (ceil(q_len / ROWS), heads, batch).
requires immediate_address_space;
enable subgroups;

alias Elem4 = vec4<f32>;              // vec4<f16> for f16 storage; sums are f32
const HEAD_DIM: u32 = 64;
const LANES: u32 = 8;                 // the adapter's subgroup size
const ROWS: u32 = 16;                 // queries of a workgroup, a multiple of LANES
override STORE_LSE: bool = false;
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
@group(0) @binding(3) var<storage, read_write> out: array<Elem4>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<storage, read> keys: array<vec2u>;
var<immediate> params: Params;

const QUADS: u32 = HEAD_DIM / 4;                    // vec4s of a head
const SPANS: u32 = (QUADS + LANES - 1) / LANES;     // vec4s of the output a lane owns
const LOWEST: f32 = -3.4e38;

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
  let last = params.kv_len - 1;

  // Rows past the end read the last one and are not written. Loops with a bound that is no constant are not
  // unrolled by the driver: half the compile time.
  let rows = min(ROWS, params.q_len - first);
  var q_row: array<u32, ROWS / LANES>;
  for (var g = 0u; g < ROWS / LANES; g++) {
    let row = b * params.q_len + min(first + g * LANES + lane, params.q_len - 1);
    q_row[g] = (row * params.q_stride + params.q_offset) / 4 + head * QUADS;
  }
  var site: vec2u;
  if (DROPOUT) { site = head_key(b * params.heads + head); }
  var top: array<f32, ROWS>;
  var sum: array<f32, ROWS>;
  var acc: array<array<vec4f, ROWS>, SPANS>;
  for (var r = 0u; r < ROWS; r++) { top[r] = LOWEST; }

  for (var tile = 0u; tile < params.kv_len; tile += 4 * LANES) {
    // Scores: s[r][n] of query r and key tile + 4 * lane + n.
    var s = array<vec4f, ROWS>();
    let key = tile + 4 * lane + vec4u(0, 1, 2, 3);
    let k_row = k_at + min(key, vec4u(last)) * kv_stride;
    for (var c = 0u; c < QUADS; c++) {
      // keys[e]: element 4 c + e of the 4 keys
      let keys = transpose(mat4x4f(
        vec4f(k[k_row[0] + c]), vec4f(k[k_row[1] + c]), vec4f(k[k_row[2] + c]), vec4f(k[k_row[3] + c])));
      for (var g = 0u; g < ROWS / LANES; g++) {
        let part = vec4f(q[q_row[g] + c]);
        for (var r = 0u; r < LANES; r++) {
          let i = g * LANES + r;
          s[i] = add_product(s[i], keys, subgroupShuffle(part, r));
        }
      }
    }

    // Probabilities about the new maximum; what was summed so far shrinks by exp(old - new).
    let present = key < vec4u(params.kv_len);
    for (var r = 0u; r < rows; r++) {
      let x = select(vec4f(LOWEST), s[r] * params.scale, present);
      let new_top = max(top[r], subgroupMax(max(max(x[0], x[1]), max(x[2], x[3]))));
      let shrink = exp(top[r] - new_top);
      top[r] = new_top;
      let p = exp(x - new_top);
      sum[r] = sum[r] * shrink + dot(p, vec4f(1));
      s[r] = p;
      if (DROPOUT) { s[r] *= kept(site, (first + r) * 65536 + key); }
      for (var t = 0u; t < SPANS; t++) { acc[t][r] *= shrink; }
    }

    // acc += p v, the 4 keys of a lane at a time; lanes past the last key have none.
    let lanes = min(LANES, (params.kv_len - tile + 3) / 4);
    for (var l = 0u; l < lanes; l++) {
      let row = v_at + min(tile + 4 * l + vec4u(0, 1, 2, 3), vec4u(last)) * kv_stride;
      for (var t = 0u; t < SPANS; t++) {
        let at = row + min(t * LANES + lane, QUADS - 1);
        let values = mat4x4f(vec4f(v[at[0]]), vec4f(v[at[1]]), vec4f(v[at[2]]), vec4f(v[at[3]]));
        for (var r = 0u; r < ROWS; r++) { acc[t][r] = add_product(acc[t][r], values, subgroupShuffle(s[r], l)); }
      }
    }
  }

  for (var r = 0u; r < rows; r++) {
    let i = first + r;
    let total = subgroupAdd(sum[r]);
    let at = ((b * params.q_len + i) * params.heads + head) * QUADS;
    for (var t = 0u; t < SPANS; t++) {
      if (t * LANES + lane < QUADS) { out[at + t * LANES + lane] = Elem4(acc[t][r] / total); }
    }
    if (STORE_LSE && lane == 0) { lse[(b * params.heads + head) * params.q_len + i] = top[r] + log(total); }
  }
}
