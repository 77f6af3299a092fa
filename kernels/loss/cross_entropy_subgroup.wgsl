// cross_entropy: softmax cross-entropy with label smoothing of every row,
//
//   loss = log(sum of exp(logits)) - (1 - smoothing) logits[label] - smoothing mean(logits)
//
//   logits  [rows, classes]  f32    classes a multiple of 4
//   labels  [>= rows]        u32    below classes
//   loss    [rows]           f32
//   stats   [rows]           vec2f  max, log(sum of exp(logit - max)): what backward needs, together the log-sum-exp
//
// One pass over the row: each lane keeps the largest logit so far and the sum of exponentials relative to it, and
// multiplies the sum when a larger one comes. One subgroup a workgroup, one workgroup a row; lane i takes the vec4s
// i, i + LANES, ... No workgroup memory, no barriers. Grid: rows, folded over y beyond 32768.
// For: CPU drivers, where a barrier costs more than a row. Adds to cross_entropy.wgsl: lanes joined by subgroup operations.
// Szegedy et al. 2016, section 7 (label smoothing); the online maximum: Milakov, Gimelshein 2018.
requires immediate_address_space;
enable subgroups;

const LANES: u32 = 8;                 // the adapter's subgroup size
const LOWEST = -3.0e38;

struct Params { rows: u32, classes: u32, smoothing: f32 }

@group(0) @binding(0) var<storage, read> logits: array<vec4f>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read_write> loss: array<f32>;
@group(0) @binding(3) var<storage, read_write> stats: array<vec2f>;
var<immediate> params: Params;

/** What is known of a part of a row. */
struct Part { most: f32, exponentials: f32, sum: f32 }

/** Natural logarithm of a normal positive number (Cephes logf; see random/normal.wgsl). */
fn accurate_log(x: f32) -> f32 {
  let bits = bitcast<u32>(x) - 0x3f3504f3;
  let e = f32(bitcast<i32>(bits) >> 23);
  let f = bitcast<f32>((bits & 0x007fffff) + 0x3f3504f3) - 1;
  var p = ((7.0376836292e-2 * f - 1.1514610310e-1) * f + 1.1676998740e-1) * f - 1.2420140846e-1;
  p = ((((p * f + 1.4249322787e-1) * f - 1.6668057665e-1) * f + 2.0000714765e-1) * f - 2.4999993993e-1) * f + 3.3333331174e-1;
  let s = f * f;
  return e * 0.693359375 + (f + (e * -2.12194440e-4 - 0.5 * s + p * s * f));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * 32768 + group.x;
  if (row >= params.rows) { return; }
  let quads = params.classes / 4;
  let start = row * quads;

  var part = Part(LOWEST, 0, 0);
  for (var i = lane; i < quads; i += LANES) {
    let x = logits[start + i];
    let most = max(part.most, max(max(x.x, x.y), max(x.z, x.w)));
    part.exponentials = part.exponentials * exp(part.most - most) + dot(exp(x - most), vec4f(1));
    part.most = most;
    part.sum += dot(x, vec4f(1));
  }

  let most = subgroupMax(part.most);
  let exponentials = subgroupAdd(part.exponentials * exp(part.most - most));
  let row_part = Part(most, exponentials, subgroupAdd(part.sum));
  if (lane > 0) { return; }
  let log_sum = accurate_log(row_part.exponentials);
  let label = start * 4 + labels[row];
  let chosen = logits[label / 4][label % 4] - row_part.most;
  let mean = row_part.sum / f32(params.classes) - row_part.most;
  loss[row] = log_sum - (1 - params.smoothing) * chosen - params.smoothing * mean;
  stats[row] = vec2f(row_part.most, log_sum);
}
