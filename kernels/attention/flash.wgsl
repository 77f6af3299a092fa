// attention for GPUs: out = softmax(scale * q kT) v in one pass over the keys, nothing of size q_len x kv_len stored.
//
// Operands, strides and offsets as in reference.wgsl. Here q, k, v and out are bound as vec4s: HEAD_DIM, every
// stride and every offset must be multiples of 4 (elements); any other size goes to reference.wgsl.
//
// Adds to the reference: the running maximum (Milakov & Gimelshein 2018), so that keys are walked once, and tiles
// (Dao et al. 2022, algorithm 1), so that K and V are read from memory once for 32 queries.
// One workgroup: 32 queries of one head, all keys in tiles of 32. Its 64 invocations stand in a grid of 8 x 8
// (ty, tx): each keeps 4 x 4 scores (queries 4 ty + r, keys tx + 8 n) and of the output 4 queries times the
// vec4 columns tx, tx + 8, ... Head dims pass through workgroup memory 32 elements (a slice) at a time, so that
// memory does not grow with HEAD_DIM.
// Tiles of q, k and v keep the type that they are stored in: in f16 half the workgroup memory and half its traffic, with
// the same products, in f32.
// Grid: (ceil(q_len / 32), heads, batch). Workgroup memory: 4 + 4 + 4.5 + 1 KiB, in f16 2 + 2 + 4.5 + 1. No subgroups
// needed. FLOPs per byte of memory traffic: about 11 in f32, 21 in f16 (q is read again for each tile of keys).
requires immediate_address_space;

alias Elem4 = vec4<f32>;              // vec4<f16> for f16 storage; sums are f32
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

@group(0) @binding(0) var<storage, read> q: array<Elem4>;
@group(0) @binding(1) var<storage, read> k: array<Elem4>;
@group(0) @binding(2) var<storage, read> v: array<Elem4>;
@group(0) @binding(3) var<storage, read_write> out: array<Elem4>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<storage, read> keys: array<vec2u>;
var<immediate> params: Params;

const SIDE: u32 = 8;                              // invocations along queries and along keys
const TILE: u32 = 4 * SIDE;                       // queries, and keys, of one tile
const QUADS: u32 = HEAD_DIM / 4;                  // vec4s of a head
const SLICES: u32 = (QUADS + SIDE - 1) / SIDE;    // slices of SIDE vec4s
const P_ROW: u32 = SIDE + 1;                      // padded against bank conflicts
const LOWEST: f32 = -3.4e38;

var<workgroup> q_tile: array<Elem4, SIDE * TILE>;     // [quad][query]
var<workgroup> kv_tile: array<Elem4, SIDE * TILE>;    // k: [quad][key], v: [key][quad]
var<workgroup> p_tile: array<vec4f, TILE * P_ROW>;    // [key][ty], the 4 queries of ty in a vec4
var<workgroup> partial: array<vec4f, SIDE * SIDE>;    // [ty][tx], the 4 queries of ty in a vec4

/** Maximum over the 8 invocations of a row of the grid; a vec4 holds the 4 queries. */
fn max_over_keys(value: vec4f, ty: u32, tx: u32) -> vec4f {
  partial[ty * SIDE + tx] = value;
  workgroupBarrier();
  var top = value;
  for (var n = 0u; n < SIDE; n++) { top = max(top, partial[ty * SIDE + n]); }
  return top;
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

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let ty = lane / SIDE;
  let tx = lane % SIDE;
  let first = group.x * TILE;
  let head = group.y;
  let b = group.z;
  let q_stride = params.q_stride / 4;
  let kv_stride = params.kv_stride / 4;
  let q_at = b * params.q_len * q_stride + params.q_offset / 4 + head * QUADS;
  let k_at = b * params.kv_len * kv_stride + params.k_offset / 4 + head * QUADS;
  let v_at = b * params.kv_len * kv_stride + params.v_offset / 4 + head * QUADS;

  var site: vec2u;
  if (DROPOUT) { site = head_key(b * params.heads + head); }
  let query = first + ty * 4 + vec4u(0, 1, 2, 3);

  var top = vec4f(LOWEST);                        // running maximum of the 4 queries
  var sum = vec4f();                              // sum of exp(score - top) over this invocation's keys
  var acc: array<array<vec4f, 4>, SLICES>;        // [slice][query]

  for (var tile = 0u; tile < params.kv_len; tile += TILE) {
    // Scores of the tile: s[r][n] for query 4 ty + r and key tx + 8 n.
    var s = mat4x4f();
    for (var slice = 0u; slice < SLICES; slice++) {
      workgroupBarrier();
      for (var e = lane; e < SIDE * TILE; e += SIDE * SIDE) {
        let quad = slice * SIDE + e % SIDE;
        let row = e / SIDE;
        let at = (e % SIDE) * TILE + row;
        let in_head = quad < QUADS;
        q_tile[at] = Elem4();
        kv_tile[at] = Elem4();
        if (in_head && first + row < params.q_len) { q_tile[at] = q[q_at + (first + row) * q_stride + quad]; }
        if (in_head && tile + row < params.kv_len) { kv_tile[at] = k[k_at + (tile + row) * kv_stride + quad]; }
      }
      workgroupBarrier();
      for (var c = 0u; c < min(SIDE, QUADS - slice * SIDE); c++) {
        var keys: mat4x4f;
        for (var n = 0u; n < 4; n++) { keys[n] = vec4f(kv_tile[c * TILE + n * SIDE + tx]); }
        for (var r = 0u; r < 4; r++) { s[r] += vec4f(q_tile[c * TILE + ty * 4 + r]) * keys; }
      }
    }
    s = transpose(s * params.scale);              // s[n][r] now: a column holds the 4 queries
    for (var n = 0u; n < 4; n++) {
      if (tile + n * SIDE + tx >= params.kv_len) { s[n] = vec4f(LOWEST); }
    }

    // Probabilities about the new maximum; what was summed so far shrinks by exp(old - new).
    let new_top = max_over_keys(max(top, max(max(s[0], s[1]), max(s[2], s[3]))), ty, tx);
    let shrink = exp(top - new_top);
    top = new_top;
    sum *= shrink;
    for (var n = 0u; n < 4; n++) {
      var p = exp(s[n] - top);
      sum += p;
      if (DROPOUT) { p *= kept(site, query * 65536 + (tile + n * SIDE + tx)); }
      p_tile[(n * SIDE + tx) * P_ROW + ty] = p;
    }

    // acc = acc * shrink + p v
    for (var slice = 0u; slice < SLICES; slice++) {
      workgroupBarrier();
      for (var e = lane; e < SIDE * TILE; e += SIDE * SIDE) {
        let quad = slice * SIDE + e % SIDE;
        let row = e / SIDE;
        kv_tile[e] = Elem4();
        if (quad < QUADS && tile + row < params.kv_len) { kv_tile[e] = v[v_at + (tile + row) * kv_stride + quad]; }
      }
      workgroupBarrier();
      for (var r = 0u; r < 4; r++) { acc[slice][r] *= shrink[r]; }
      for (var j = 0u; j < TILE; j++) {
        let p = p_tile[j * P_ROW + ty];
        let value = vec4f(kv_tile[j * SIDE + tx]);
        for (var r = 0u; r < 4; r++) { acc[slice][r] += p[r] * value; }
      }
    }
  }

  // The sums of the 8 invocations of a row of the grid meet only here. All have read `partial` before the last barrier.
  partial[ty * SIDE + tx] = sum;
  workgroupBarrier();
  var total = vec4f();
  for (var n = 0u; n < SIDE; n++) { total += partial[ty * SIDE + n]; }

  for (var r = 0u; r < 4; r++) {
    let i = first + ty * 4 + r;
    if (i >= params.q_len) { break; }
    let out_at = ((b * params.q_len + i) * params.heads + head) * QUADS;
    for (var slice = 0u; slice < SLICES; slice++) {
      let quad = slice * SIDE + tx;
      if (quad < QUADS) { out[out_at + quad] = Elem4(acc[slice][r] / total[r]); }
    }
    if (STORE_LSE && tx == 0) { lse[(b * params.heads + head) * params.q_len + i] = top[r] + log(total[r]); }
  }
}
