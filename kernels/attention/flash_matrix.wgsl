// attention for GPUs with subgroup matrices: out = softmax(scale * q kT) v in one pass over the keys, both products on
// tensor cores.
//
// Operands, strides and offsets as in reference.wgsl, bound as vec4s: HEAD_DIM, every stride and every offset multiples
// of 4 (elements). q, k, v are multiplied as f16, and so are the softmax's numerators, which are at most 1; scores,
// sums and the output's accumulators are f32. For inference: no log-sum-exp is kept, no weight dropped.
//
// Adds to flash.wgsl: each of the two products is made in matrices of MATRIX_M x MATRIX_N by a subgroup, and a head's
// queries stay in workgroup memory for the whole pass instead of being read again for each tile of keys.
// One workgroup: QUERIES queries of one head, all keys in tiles of KEYS; 4 invocations a query. For each tile: scores by
// matrices into workgroup memory; softmax there by the query's 4 invocations about the running maximum (Milakov &
// Gimelshein 2018; Dao et al. 2022, algorithm 1); numerators . v by matrices into workgroup memory; and from there into
// the accumulators, a quarter of the query's output in each of its invocations' registers, which shrink as the maximum
// grows. Head dims are padded with zeros to a multiple of 16.
// Grid: (ceil(q_len / QUERIES), heads, batch). FLOPs per byte of memory traffic, f16: QUERIES; flash.wgsl, f16: 21.
// Workgroup memory at HEAD_DIM 64: 21 KiB with 32 queries, 36 KiB with 64. Strides are padded as in
// matmul/subgroup_matrix.wgsl.
requires immediate_address_space;
requires subgroup_id;
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;

alias Elem4 = vec4<f32>;    // vec4<f16>: storage
alias Half = f16;           // what is multiplied
const HEAD_DIM: u32 = 64;
const MATRIX_M: u32 = 16;   // one of the adapter's subgroupMatrixConfigs; each divides 16
const MATRIX_N: u32 = 16;
const MATRIX_K: u32 = 16;
const LANES: u32 = 32;      // the adapter's subgroup size
const QUERIES: u32 = 32;
const KEYS: u32 = 32;

const PARTS: u32 = 4;       // invocations of a query
const INVOCATIONS: u32 = PARTS * QUERIES;
const SUBGROUPS: u32 = INVOCATIONS / LANES;
const PADDED: u32 = (HEAD_DIM + 15) / 16 * 16;
const QUADS: u32 = PADDED / 4;
const LINE: u32 = PADDED + 8;
const P_LINE: u32 = KEYS + 8;
const RESULT_LINE: u32 = max(KEYS, PADDED) + 4;
const SCORE_STEPS: u32 = PADDED / MATRIX_K;
const VALUE_STEPS: u32 = KEYS / MATRIX_K;
const SHARE: u32 = PADDED / PARTS;
const LOWEST: f32 = -3.4e38;

alias Left = subgroup_matrix_left<Half, MATRIX_K, MATRIX_M>;
alias Right = subgroup_matrix_right<Half, MATRIX_N, MATRIX_K>;
alias Result = subgroup_matrix_result<f32, MATRIX_N, MATRIX_M>;

struct Params {
  batch: u32, heads: u32, q_len: u32, kv_len: u32,
  q_stride: u32, q_offset: u32,
  kv_stride: u32, k_offset: u32, v_offset: u32,
  scale: f32,
}

@group(0) @binding(0) var<storage, read> q: array<Elem4>;
@group(0) @binding(1) var<storage, read> k: array<Elem4>;
@group(0) @binding(2) var<storage, read> v: array<Elem4>;
@group(0) @binding(3) var<storage, read_write> out: array<Elem4>;
var<immediate> params: Params;

var<workgroup> q_tile: array<Half, QUERIES * LINE>;           // [query][element]
var<workgroup> kv_tile: array<Half, KEYS * LINE>;             // [key][element]: k, then v
var<workgroup> p_tile: array<Half, QUERIES * P_LINE>;         // [query][key]
var<workgroup> results: array<f32, QUERIES * RESULT_LINE>;    // [query][key]: scores; [query][element]: p v
var<workgroup> partial: array<f32, INVOCATIONS>;              // [query][part]

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32,
        @builtin(subgroup_id) subgroup: u32) {
  let first = group.x * QUERIES;
  let head = group.y;
  let b = group.z;
  let head_quads = HEAD_DIM / 4;
  let q_stride = params.q_stride / 4;
  let kv_stride = params.kv_stride / 4;
  let q_at = b * params.q_len * q_stride + params.q_offset / 4 + head * head_quads;
  let k_at = b * params.kv_len * kv_stride + params.k_offset / 4 + head * head_quads;
  let v_at = b * params.kv_len * kv_stride + params.v_offset / 4 + head * head_quads;
  let query = index / PARTS;
  let part = index % PARTS;

  for (var e = index; e < QUERIES * QUADS; e += INVOCATIONS) {
    let row = e / QUADS;
    let quad = e % QUADS;
    var value = vec4f();
    if (quad < head_quads && first + row < params.q_len) { value = vec4f(q[q_at + (first + row) * q_stride + quad]); }
    for (var c = 0u; c < 4; c++) { q_tile[row * LINE + quad * 4 + c] = Half(value[c]); }
  }

  var top = LOWEST;               // running maximum of the query
  var sum = 0.0;                  // sum of exp(score - top) over this invocation's keys
  var acc: array<f32, SHARE>;     // elements part, part + PARTS, ... of the query's output

  for (var tile = 0u; tile < params.kv_len; tile += KEYS) {
    for (var e = index; e < KEYS * QUADS; e += INVOCATIONS) {
      let row = e / QUADS;
      let quad = e % QUADS;
      var value = vec4f();
      if (quad < head_quads && tile + row < params.kv_len) { value = vec4f(k[k_at + (tile + row) * kv_stride + quad]); }
      for (var c = 0u; c < 4; c++) { kv_tile[row * LINE + quad * 4 + c] = Half(value[c]); }
    }
    workgroupBarrier();

    // Scores: matrix (down, across) of the tile.
    for (var t = subgroup; t < QUERIES / MATRIX_M * (KEYS / MATRIX_N); t += SUBGROUPS) {
      let down = t / (KEYS / MATRIX_N) * MATRIX_M;
      let across = t % (KEYS / MATRIX_N) * MATRIX_N;
      var score = Result();
      for (var step = 0u; step < SCORE_STEPS; step++) {
        let left = subgroupMatrixLoad<Left, row_major>(&q_tile, down * LINE + step * MATRIX_K, LINE);
        let right = subgroupMatrixLoad<Right, col_major>(&kv_tile, across * LINE + step * MATRIX_K, LINE);
        score = subgroupMatrixMultiplyAccumulate(left, right, score);
      }
      subgroupMatrixStore<row_major>(&results, down * RESULT_LINE + across, score, RESULT_LINE);
    }
    workgroupBarrier();

    // v takes the place of k, while each query finds its maximum.
    for (var e = index; e < KEYS * QUADS; e += INVOCATIONS) {
      let row = e / QUADS;
      let quad = e % QUADS;
      var value = vec4f();
      if (quad < head_quads && tile + row < params.kv_len) { value = vec4f(v[v_at + (tile + row) * kv_stride + quad]); }
      for (var c = 0u; c < 4; c++) { kv_tile[row * LINE + quad * 4 + c] = Half(value[c]); }
    }
    let keys = min(KEYS, params.kv_len - tile);
    var new_top = top;
    for (var key = part; key < keys; key += PARTS) {
      new_top = max(new_top, params.scale * results[query * RESULT_LINE + key]);
    }
    partial[index] = new_top;
    workgroupBarrier();
    for (var n = 0u; n < PARTS; n++) { new_top = max(new_top, partial[query * PARTS + n]); }

    // Numerators about the new maximum; what was summed so far shrinks by exp(old - new).
    let shrink = exp(top - new_top);
    top = new_top;
    sum *= shrink;
    for (var key = part; key < KEYS; key += PARTS) {
      var p = Half(0.0);
      if (key < keys) { p = Half(exp(params.scale * results[query * RESULT_LINE + key] - top)); }
      sum += f32(p);
      p_tile[query * P_LINE + key] = p;
    }
    workgroupBarrier();

    for (var t = subgroup; t < QUERIES / MATRIX_M * (PADDED / MATRIX_N); t += SUBGROUPS) {
      let down = t / (PADDED / MATRIX_N) * MATRIX_M;
      let across = t % (PADDED / MATRIX_N) * MATRIX_N;
      var value = Result();
      for (var step = 0u; step < VALUE_STEPS; step++) {
        let left = subgroupMatrixLoad<Left, row_major>(&p_tile, down * P_LINE + step * MATRIX_K, P_LINE);
        let right = subgroupMatrixLoad<Right, row_major>(&kv_tile, step * MATRIX_K * LINE + across, LINE);
        value = subgroupMatrixMultiplyAccumulate(left, right, value);
      }
      subgroupMatrixStore<row_major>(&results, down * RESULT_LINE + across, value, RESULT_LINE);
    }
    workgroupBarrier();
    for (var i = 0u; i < SHARE; i++) {
      acc[i] = acc[i] * shrink + results[query * RESULT_LINE + part + PARTS * i];
    }
  }

  // The sums of the query's invocations meet only here; outputs are gathered into vec4s on the way out. All have read
  // `partial` before the last barrier, and of `results` each has read the numbers that it writes.
  partial[index] = sum;
  for (var i = 0u; i < SHARE; i++) { results[query * RESULT_LINE + part + PARTS * i] = acc[i]; }
  workgroupBarrier();
  for (var e = index; e < QUERIES * head_quads; e += INVOCATIONS) {
    let row = e / head_quads;
    let quad = e % head_quads;
    if (first + row < params.q_len) {
      var total = 0.0;
      for (var n = 0u; n < PARTS; n++) { total += partial[row * PARTS + n]; }
      let at = row * RESULT_LINE + quad * 4;
      let value = vec4f(results[at], results[at + 1], results[at + 2], results[at + 3]);
      out[((b * params.q_len + first + row) * params.heads + head) * head_quads + quad] = Elem4(value / total);
    }
  }
}
