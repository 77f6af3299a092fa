// attention with one wide head, second of three: scores to probabilities, in place.
//
//   p[row, j] = exp(s[row, j] - max_j s[row, j]) / sum_j exp(s[row, j] - max_j s[row, j])
//
//   scores  [rows, ceil(length / 4)]  vec4f   replaced by p; zero past the last key
//
// A workgroup a row: invocation t takes the vec4s t, t + 64, ...; maximum and sum of the 64 by halving, always in the
// same order. Workgroup memory: 256 bytes. Any adapter. Grid: rows, folded over y beyond 32768.
requires immediate_address_space;

struct Params { rows: u32, length: u32 }

@group(0) @binding(0) var<storage, read_write> scores: array<vec4f>;
var<immediate> params: Params;

const LOWEST: f32 = -3.4e38;

var<workgroup> values: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let row = group.y * 32768 + group.x;
  if (row >= params.rows) { return; }
  let quads = (params.length + 3) / 4;
  let start = row * quads;

  var top = vec4f(LOWEST);
  for (var i = index; i < quads; i += 64) { top = max(top, scores[start + i]); } // repeats do no harm
  values[index] = max(max(top.x, top.y), max(top.z, top.w));
  workgroupBarrier();
  for (var half = 32u; half > 0; half /= 2) {
    if (index < half) { values[index] = max(values[index], values[index + half]); }
    workgroupBarrier();
  }
  let highest = values[0];
  workgroupBarrier();

  var sum = vec4f(0);
  for (var i = index; i < quads; i += 64) {
    let present = i * 4 + vec4u(0, 1, 2, 3) < vec4u(params.length);
    let p = select(vec4f(0), exp(scores[start + i] - highest), present);
    scores[start + i] = p;
    sum += p;
  }
  values[index] = dot(sum, vec4f(1));
  workgroupBarrier();
  for (var half = 32u; half > 0; half /= 2) {
    if (index < half) { values[index] += values[index + half]; }
    workgroupBarrier();
  }
  for (var i = index; i < quads; i += 64) { scores[start + i] /= values[0]; }
}
