// attention for CPU drivers with subgroups of 4 lanes (SwiftShader): cpu.wgsl in 4 x 4 matrices.
//
// Operands, strides and offsets as in reference.wgsl. Here q, k, v and out are bound as vec4s: HEAD_DIM, every
// stride and every offset must be multiples of 4 (elements); any other size goes to reference.wgsl.
//
// SwiftShader neither unrolls loops nor keeps an array in registers when a loop variable indexes it, and reading
// one number from memory costs it as much as 14 multiply-adds. So cpu.wgsl's arrays of rows are here two named
// matrices: a (queries 0..3 of the workgroup, one a column) and b (queries 4..7), and tiles of 16 keys meet them in
// products of 4 x 4 matrices. A lane owns 4 consecutive keys of a tile, and of the output the vec4 columns
// lane, lane + 4, ...; only the output, which grows with HEAD_DIM, is an array.
// Softmax about the running maximum (Milakov & Gimelshein 2018; Dao et al. 2022).
// Grid: (ceil(q_len / 8), heads, batch). One subgroup of 4 a workgroup; no workgroup memory, no barriers.
requires immediate_address_space;
enable subgroups;

alias Elem4 = vec4<f32>;              // vec4<f16> for f16 storage; sums are f32
const HEAD_DIM: u32 = 64;
const LANES: u32 = 4;                 // the adapter's subgroup size; nothing else will do
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

/** Of 4 queries: the running maximum, this lane's sum of exp(score - maximum), and by how much old sums shrink. */
struct Running { top: vec4f, sum: vec4f, shrink: vec4f }

/** One span of the output: 4 of a lane's columns of queries 0..3 (a) and 4..7 (b), a query a column. */
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

fn load_k(at: vec4u) -> mat4x4f { return mat4x4f(vec4f(k[at[0]]), vec4f(k[at[1]]), vec4f(k[at[2]]), vec4f(k[at[3]])); }
fn load_v(at: vec4u) -> mat4x4f { return mat4x4f(vec4f(v[at[0]]), vec4f(v[at[1]]), vec4f(v[at[2]]), vec4f(v[at[3]])); }

/** exp(score - new maximum) of 4 keys (rows) and 4 queries (columns); 0 for a key that is not there. */
fn probabilities(scores: mat4x4f, present: vec4<bool>, run: ptr<function, Running>) -> mat4x4f {
  let s = transpose(scores);          // a key a column
  let x0 = select(vec4f(LOWEST), s[0], present[0]);
  let x1 = select(vec4f(LOWEST), s[1], present[1]);
  let x2 = select(vec4f(LOWEST), s[2], present[2]);
  let x3 = select(vec4f(LOWEST), s[3], present[3]);
  let top = max(run.top, subgroupMax(max(max(x0, x1), max(x2, x3))));
  let p = mat4x4f(exp(x0 - top), exp(x1 - top), exp(x2 - top), exp(x3 - top));
  run.shrink = exp(run.top - top);
  run.sum = run.sum * run.shrink + (p[0] + p[1] + p[2] + p[3]);
  run.top = top;
  return transpose(p);
}

/** acc * shrink + v p over a tile: v0 holds the 4 keys of lane 0, a key a column, and so on. */
fn add_values(
  acc: mat4x4f, shrink: vec4f, p: mat4x4f, v0: mat4x4f, v1: mat4x4f, v2: mat4x4f, v3: mat4x4f,
) -> mat4x4f {
  let shrunk = mat4x4f(acc[0] * shrink[0], acc[1] * shrink[1], acc[2] * shrink[2], acc[3] * shrink[3]);
  return shrunk + v0 * of_lane0(p) + v1 * of_lane1(p) + v2 * of_lane2(p) + v3 * of_lane3(p);
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

/** The weights p of 4 keys (rows) and the 4 queries (columns) from `first` on after dropout. */
fn dropped(p: mat4x4f, site: vec2u, first: u32, key: vec4u) -> mat4x4f {
  return mat4x4f(
    p[0] * kept(site, first * 65536 + key),
    p[1] * kept(site, (first + 1) * 65536 + key),
    p[2] * kept(site, (first + 2) * 65536 + key),
    p[3] * kept(site, (first + 3) * 65536 + key));
}

/** Where row i of image b starts in q; rows past the end read the last one and are not written. */
fn q_row(i: u32, head: u32, b: u32) -> u32 {
  return ((b * params.q_len + min(i, params.q_len - 1)) * params.q_stride + params.q_offset) / 4 + head * QUADS;
}

/** Writes one span of 4 queries from `first` on. */
fn store(acc: mat4x4f, run: Running, first: u32, head: u32, b: u32, column: u32) {
  let total = subgroupAdd(run.sum);
  for (var r = 0u; r < 4; r++) {
    let i = first + r;
    if (i < params.q_len && column < QUADS) {
      out[((b * params.q_len + i) * params.heads + head) * QUADS + column] = Elem4(acc[r] / total[r]);
      if (STORE_LSE && column == 0) { lse[(b * params.heads + head) * params.q_len + i] = run.top[r] + log(total[r]); }
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
  let q_a = q_row(first + lane, head, b);
  let q_b = q_row(first + 4 + lane, head, b);

  var site: vec2u;
  if (DROPOUT) { site = head_key(b * params.heads + head); }

  var run_a = Running(vec4f(LOWEST), vec4f(), vec4f());
  var run_b = run_a;
  var acc = array<Rows, SPANS>();

  for (var tile = 0u; tile < params.kv_len; tile += 4 * LANES) {
    let key = tile + lane * 4 + vec4u(0, 1, 2, 3);
    let row = min(key, vec4u(params.kv_len - 1)) * kv_stride;

    // Scores of the lane's 4 keys (rows) and the queries (columns).
    var s = Rows();
    for (var c = 0u; c < QUADS; c++) {
      let keys = transpose(load_k(row + (k_at + c)));
      s.a += keys * spread(vec4f(q[q_a + c]));
      s.b += keys * spread(vec4f(q[q_b + c]));
    }

    let present = key < vec4u(params.kv_len);
    var p_a = probabilities(s.a * params.scale, present, &run_a);
    var p_b = probabilities(s.b * params.scale, present, &run_b);
    if (DROPOUT) {
      p_a = dropped(p_a, site, first, key);
      p_b = dropped(p_b, site, first + 4, key);
    }

    let row0 = subgroupBroadcast(row, 0);
    let row1 = subgroupBroadcast(row, 1);
    let row2 = subgroupBroadcast(row, 2);
    let row3 = subgroupBroadcast(row, 3);
    for (var t = 0u; t < SPANS; t++) {
      let at = v_at + min(t * LANES + lane, QUADS - 1);
      let v0 = load_v(row0 + at);
      let v1 = load_v(row1 + at);
      let v2 = load_v(row2 + at);
      let v3 = load_v(row3 + at);
      acc[t].a = add_values(acc[t].a, run_a.shrink, p_a, v0, v1, v2, v3);
      acc[t].b = add_values(acc[t].b, run_b.shrink, p_b, v0, v1, v2, v3);
    }
  }

  for (var t = 0u; t < SPANS; t++) {
    store(acc[t].a, run_a, first, head, b, t * LANES + lane);
    store(acc[t].b, run_b, first + 4, head, b, t * LANES + lane);
  }
}
