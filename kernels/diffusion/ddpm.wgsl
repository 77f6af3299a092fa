// ddpm: one ancestral step with learned-range variance, with guidance.
//
//   net   [rows or 2 rows, 2 * channels]  f32   noise, then the variance channel v; guided: conditional rows, then
//                                               unconditional rows (the variance is the conditional rows' own)
//   noise [rows, channels]                f32
//   x     [rows or 2 rows, channels]      f32   becomes the next point (both halves when guided)
//
//   x0 = x sqrt(1 / abar) - e sqrt(1 / abar - 1);  mean = mean_x0 x0 + mean_x x
//   log variance = f max_log + (1 - f) min_log, f = (v + 1) / 2;  x = mean + deviation exp(log variance / 2) noise
//
// deviation is the temperature, 0 in the last step. One invocation an element.
// Grid: ceil(rows * channels / 64), folded over y beyond 32768.
// Ho et al. 2020, equations 6-7; Nichol, Dhariwal 2021, equation 15.
requires immediate_address_space;

struct Params {
  rows: u32, channels: u32, guided: u32, guidance: f32,
  recip: f32, recip_m1: f32, mean_x0: f32, mean_x: f32, min_log: f32, max_log: f32, deviation: f32,
}

@group(0) @binding(0) var<storage, read> net: array<f32>;
@group(0) @binding(1) var<storage, read> noise: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let element = id.y * 32768 * 64 + id.x;
  let size = params.rows * params.channels;
  if (element >= size) { return; }
  let width = 2 * params.channels;
  let at = element / params.channels * width + element % params.channels;
  var e = net[at];
  let f = (net[at + params.channels] + 1) / 2;
  if (params.guided == 1) {
    let unconditional = net[at + params.rows * width];
    e = unconditional + params.guidance * (e - unconditional);
  }
  let x0 = params.recip * x[element] - params.recip_m1 * e;
  let mean = params.mean_x0 * x0 + params.mean_x * x[element];
  let log_variance = f * params.max_log + (1 - f) * params.min_log;
  let next = mean + params.deviation * exp(0.5 * log_variance) * noise[element];
  x[element] = next;
  if (params.guided == 1) { x[element + size] = next; }
}
