// cross_entropy: softmax cross-entropy with label smoothing of every row,
//
//   loss = log(sum of exp(logits)) - (1 - smoothing) logits[label] - smoothing mean(logits)
//
//   logits  [rows, classes]  f32
//   labels  [>= rows]        u32    below classes
//   loss    [rows]           f32
//   stats   [rows]           vec2f  max, log(sum of exp(logit - max)): what backward needs, together the log-sum-exp
//
// Two passes over the row: the maximum, then the sum of exponentials relative to it. One invocation a row.
// Grid: ceil(rows / 64), folded over y beyond 32768. For: any adapter, any number of classes; for reading and checking.
// Szegedy et al. 2016, section 7 (label smoothing).
requires immediate_address_space;

struct Params { rows: u32, classes: u32, smoothing: f32 }

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read_write> loss: array<f32>;
@group(0) @binding(3) var<storage, read_write> stats: array<vec2f>;
var<immediate> params: Params;

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

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.y * 32768 * 64 + id.x;
  if (row >= params.rows) { return; }
  let start = row * params.classes;
  var most = logits[start];
  for (var i = 1u; i < params.classes; i++) { most = max(most, logits[start + i]); }
  var exponentials = 0.0;
  var sum = 0.0;
  for (var i = 0u; i < params.classes; i++) {
    let x = logits[start + i] - most;
    exponentials += exp(x);
    sum += x;
  }
  let log_sum = accurate_log(exponentials);
  let chosen = logits[start + labels[row]] - most;
  loss[row] = log_sum - (1 - params.smoothing) * chosen - params.smoothing * sum / f32(params.classes);
  stats[row] = vec2f(most, log_sum);
}
