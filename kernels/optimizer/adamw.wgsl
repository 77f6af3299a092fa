// adamw: one step of AdamW on a range of flat arrays, with clipping by the global norm and the moving average of the
// values; the gradient is left zero for the next step to be added to.
//
//   g = gradient * min(1, max_norm / (norm + 1e-6))                              (CLIP)
//   m = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g^2
//   value -= rate * weight_decay * value + step_size * m / (sqrt(v) * bias + eps)
//   average += average_step * (value - average)
//
//   value, gradient, first_moment, second_moment, average  [>= offset + size]  vec4f
//   norm       [1]  f32    read when CLIP
//   schedule   [4]  f32    what changes with the step: rate = learning rate, step_size = rate / (1 - beta1^step),
//                          bias = 1 / sqrt(1 - beta2^step), average_step = 1 - decay of the average
//
// With CLIP and a norm that is not finite nothing changes, the gradient neither: the steps that are queued behind a
// broken one leave the state as it was before it.
//
// offset and size are counted in Vecs. rest1 and rest2 are 1 - beta1 and 1 - beta2, which float32 would round if they
// were made of beta1 and beta2 here. A workgroup takes 64 REPEAT Vecs, 64 at a time; every number is
// read once and written once. Grid: ceil(size / (64 REPEAT)), folded over y beyond 32768.
// Loshchilov, Hutter 2019, algorithm 2; the order of operations is torch.optim.AdamW's, clipping clip_grad_norm_'s.
requires immediate_address_space;

const REPEAT: u32 = 1;                // CPU drivers: 32, because a workgroup costs them more than its work
override CLIP: bool = true;

struct Params {
  offset: u32, size: u32,
  beta1: f32, rest1: f32, beta2: f32, rest2: f32, eps: f32, weight_decay: f32, max_norm: f32,
}
struct Schedule { rate: f32, step_size: f32, bias: f32, average_step: f32 }

@group(0) @binding(0) var<storage, read_write> value: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> gradient: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> first_moment: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> second_moment: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> average: array<vec4f>;
@group(0) @binding(5) var<storage, read> norm: array<f32>;
@group(0) @binding(6) var<storage, read> schedule: Schedule;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  // Bits, because compilers may take every number for finite.
  if (CLIP && (bitcast<u32>(norm[0]) & 0x7f800000) == 0x7f800000) { return; }
  var clip = 1.0;
  if (CLIP) { clip = min(1, params.max_norm / (norm[0] + 1e-6)); }
  let first = (group.y * 32768 + group.x) * 64 * REPEAT + lane;
  let end = min(first + 64 * REPEAT, params.size);
  for (var at = first; at < end; at += 64) {
    let i = params.offset + at;
    let g = clip * gradient[i];
    let m = params.beta1 * first_moment[i] + params.rest1 * g;
    let v = params.beta2 * second_moment[i] + params.rest2 * g * g;
    var w = value[i];
    w -= schedule.rate * params.weight_decay * w;
    w -= schedule.step_size * m / (sqrt(v) * schedule.bias + params.eps);
    let a = average[i];
    value[i] = w;
    gradient[i] = vec4f(0);
    first_moment[i] = m;
    second_moment[i] = v;
    average[i] = a + schedule.average_step * (w - a);
  }
}
