// cross_entropy backward: gradient of sum(weight * loss) by the logits, element by element,
//
//   d_logits = weight (exp(logits - log-sum-exp) - (1 - smoothing) [class = label] - smoothing / classes)
//
//   logits, d_logits  [rows, classes]  f32
//   labels            [>= rows]        u32    below classes
//   stats             [rows]           vec2f  max, log(sum of exp(logit - max)), from cross_entropy.wgsl
//   weights           [>= rows]        f32
//
// size and width (classes) are counted in Vecs; uniform_share is smoothing / classes. A workgroup takes
// 64 REPEAT Vecs, 64 at a time. Grid: ceil(size / (64 REPEAT)), folded over y beyond 32768.
requires immediate_address_space;

alias Vec = vec4<f32>;                // f32: a number of classes that is not a multiple of 4, with the three below
alias Bits = vec4<u32>;               // u32
const PER: u32 = 4;                   // 1
const STEPS = vec4<u32>(0, 1, 2, 3);  // 0u
const REPEAT: u32 = 1;                // CPU drivers: 32, because a workgroup costs them more than its work

struct Params { size: u32, width: u32, smoothing: f32, uniform_share: f32 }

@group(0) @binding(0) var<storage, read> logits: array<Vec>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read> stats: array<vec2f>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
@group(0) @binding(4) var<storage, read_write> d_logits: array<Vec>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = (group.y * 32768 + group.x) * 64 * REPEAT + lane;
  let end = min(first + 64 * REPEAT, params.size);
  for (var i = first; i < end; i += 64) {
    let row = i / params.width;
    let columns = (i % params.width) * PER + STEPS;
    let stat = stats[row];
    // The maximum first: what is near it keeps its digits.
    var d = exp((logits[i] - stat.x) - stat.y) - params.uniform_share;
    d -= select(Vec(0), Vec(1 - params.smoothing), columns == Bits(labels[row]));
    d_logits[i] = weights[row] * d;
  }
}
