// threshold: the smallest logit of each row that top-k and top-p filtering keep.
//
//   logits     [rows, codes]  f32
//   threshold  [rows]         f32   codes with a logit of at least this are kept
//
// top-k (top_k > 0): the top_k-th largest logit. top-p (top_p < 1): of what top-k keeps, the largest value v such that
// the codes with logits >= v have at least top_p of the probability, softmax(logits * sharpness). Equal logits are kept
// or dropped together. Floats are ordered as integers (`key`), and the answer is found bit by bit from the highest: 32
// sums over the row, of which each halves what is left. No sorting, any row length, the same sums in the same order.
//
// One invocation a row. Grid: ceil(rows / LANES), folded over y beyond 32768.
// For: reading and checking, and for CPU drivers, whose lanes then take a row each. Sibling: threshold.wgsl (GPUs).
// Fan et al. 2018 (top-k); Holtzman et al. 2020 (top-p).
requires immediate_address_space;

const LANES: u32 = 64;  // a CPU driver's subgroup size

struct Params { rows: u32, codes: u32, top_k: u32, top_p: f32, sharpness: f32 }

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> threshold: array<f32>;
var<immediate> params: Params;

/** A number that is larger for a larger float; both zeros are one. */
fn key(x: f32) -> u32 {
  let bits = select(bitcast<u32>(x), 0, x == 0);
  return bits ^ select(0x80000000u, 0xffffffffu, bits >= 0x80000000u);
}

fn value_of(key: u32) -> f32 { return bitcast<f32>(key ^ select(0xffffffffu, 0x80000000u, key >= 0x80000000u)); }

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.y * 32768 * LANES + id.x;
  if (row >= params.rows) { return; }
  let start = row * params.codes;

  var lowest = 0u;
  if (params.top_k > 0) {
    for (var bit = 0x80000000u; bit > 0; bit >>= 1) {
      var kept = 0u;
      for (var i = 0u; i < params.codes; i++) {
        kept += select(0u, 1u, key(logits[start + i]) >= (lowest | bit));
      }
      if (kept >= params.top_k) { lowest |= bit; }
    }
  }
  if (params.top_p < 1) {
    var most = logits[start];
    for (var i = 1u; i < params.codes; i++) { most = max(most, logits[start + i]); }
    let floor_key = lowest;
    var wanted = 0.0;
    var found = 0u;
    // The first round, whose candidate is `floor_key` itself, gives the mass of all that top-k keeps.
    for (var round = 0u; round <= 32; round++) {
      let bit = select(0x80000000u >> (round - 1), 0u, round == 0);
      let candidate = max(found | bit, floor_key);
      var mass = 0.0;
      for (var i = 0u; i < params.codes; i++) {
        let x = logits[start + i];
        mass += select(0.0, exp((x - most) * params.sharpness), key(x) >= candidate);
      }
      if (round == 0) { wanted = params.top_p * mass; }
      if (mass >= wanted) { found |= bit; }
    }
    lowest = max(found, floor_key);
  }
  threshold[row] = value_of(lowest);
}
