// head_loss: the diffusion head's loss of every row, and its gradient with BACKWARD.
//
//   net      [rows, 2 channels]  f32    eps, then v
//   noise    [rows, channels]    f32    what eps should be
//   x_t      [rows, channels]    f32    noisy tokens alpha x0 + sigma noise; read where t = 0
//   t        [>= rows]           u32    diffusion time of each row
//   table    [steps]             vec4f  alpha, sigma, shift, span of each time (src/diffusion/training.ts)
//   weights  [>= rows]           f32    read when BACKWARD: weight of each row in the total
//   terms    [rows]              vec2f  mse, vb
//   d_net    [rows, 2 channels]  f32    written when BACKWARD
//
//   mse = mean over the channels of (eps - noise)^2
//   vb  = mean over the channels of the variational term in bits, which reaches v alone (eps is detached):
//     with delta = (v + 1) / 2 * span, the model's log variance over the posterior's, z = shift (eps - noise) exp(-delta/2)
//     t > 0: KL(posterior, model) = (delta + exp(-delta) - 1 + z^2) / 2
//     t = 0: -log of the probability of x0's bin of width 2/255 under the model; for x0 beyond +-0.999 of the tail from
//            there on. The normal distribution function is 0.5 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))); probabilities
//            are taken to be at least 1e-12 (no gradient below).
//   d_net = weight * (d mse / d eps, d vb / d v)
//
// The probability at t = 0 is computed as its logarithm, because the difference of two values of the distribution
// function is lost in float32. One invocation a row. Grid: ceil(rows / 64), folded over y beyond 32768.
// Nichol, Dhariwal 2021, section 3.1; the discretised likelihood is Ho et al. 2020, equation 13.
requires immediate_address_space;

override BACKWARD: bool = true;

const ROOT_2_OVER_PI = 0.7978845608;
const CUBIC = 0.044715;
const LOWEST = -27.6310211159;        // log 1e-12
const BITS = 1.4426950409;            // 1 / log 2

struct Params { rows: u32, channels: u32, half_bin: f32 }

@group(0) @binding(0) var<storage, read> net: array<f32>;
@group(0) @binding(1) var<storage, read> noise: array<f32>;
@group(0) @binding(2) var<storage, read> x_t: array<f32>;
@group(0) @binding(3) var<storage, read> t: array<u32>;
@group(0) @binding(4) var<storage, read> table: array<vec4f>;
@group(0) @binding(5) var<storage, read> weights: array<f32>;
@group(0) @binding(6) var<storage, read_write> terms: array<vec2f>;
@group(0) @binding(7) var<storage, read_write> d_net: array<f32>;
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

/** exp(x) - 1, without cancellation near zero. */
fn expm1(x: f32) -> f32 {
  if (abs(x) > 0.5) { return exp(x) - 1; }
  let series = ((((((x / 5040 + 1.0 / 720) * x + 1.0 / 120) * x + 1.0 / 24) * x + 1.0 / 6) * x + 0.5) * x + 1);
  return x * series;
}

/** log(1 + q) for q from 0 to 1. */
fn log1p(q: f32) -> f32 {
  if (q < 1e-3) { return q - 0.5 * q * q + q * q * q / 3; }
  return accurate_log(1 + q);
}

/** The argument of tanh in the distribution function, and its derivative. */
fn inner(x: f32) -> vec2f {
  return ROOT_2_OVER_PI * vec2f(x + CUBIC * x * x * x, 1 + 3 * CUBIC * x * x);
}

/** KL divergence of one channel from delta and e = shift (eps - noise), and its derivative by delta. */
fn divergence(delta: f32, e: f32) -> vec2f {
  let m1 = expm1(-delta);
  let z2 = e * e * (m1 + 1);
  return 0.5 * vec2f(delta + m1 + z2, -m1 - z2);
}

/** log of the distribution function at x (or of 1 minus it: at -x), and its derivative by log x. */
fn tail(x: f32) -> vec2f {
  let u = inner(x);
  let q = exp(-2 * abs(u.x));
  return vec2f(min(2 * u.x, 0) - log1p(q), 2 * select(1.0, q, u.x > 0) / (1 + q) * u.y * x);
}

/** log(F(z + h) - F(z - h)), and its derivative by a common scale of z and h. */
fn bin(z: f32, h: f32) -> vec2f {
  let high = inner(z + h);
  let low = inner(z - h);
  // F(high) - F(low) = sinh(d) / (2 cosh(high) cosh(low)), d the difference of the arguments.
  let d = ROOT_2_OVER_PI * 2 * h * (1 + CUBIC * (3 * z * z + h * h));
  let q_high = exp(-2 * abs(high.x));
  let q_low = exp(-2 * abs(low.x));
  let decay = -expm1(-2 * d);
  let value = d - abs(high.x) - abs(low.x) + accurate_log(decay) - log1p(q_high) - log1p(q_low);
  let coth = (2 - decay) / decay;
  let tanh_high = sign(high.x) * (1 - q_high) / (1 + q_high);
  let tanh_low = sign(low.x) * (1 - q_low) / (1 + q_low);
  return vec2f(value, (z + h) * high.y * (coth - tanh_high) - (z - h) * low.y * (coth + tanh_low));
}

/** Negative log-likelihood of one channel, and its derivative by delta. */
fn likelihood(delta: f32, e: f32, x0: f32) -> vec2f {
  let shrink = exp(-0.5 * delta);
  let z = e * shrink;
  let h = params.half_bin * shrink;
  var log_p: vec2f;
  if (x0 < -0.999) { log_p = tail(z + h); }
  else if (x0 > 0.999) { log_p = tail(h - z); }
  else { log_p = bin(z, h); }
  if (!(log_p.x >= LOWEST)) { return vec2f(-LOWEST, 0); }
  return vec2f(-log_p.x, 0.5 * log_p.y); // z and h both scale with exp(-delta / 2)
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.y * 32768 * 64 + id.x;
  if (row >= params.rows) { return; }
  let channels = params.channels;
  let time = t[row];
  let step = table[time];
  var scale = 0.0;
  if (BACKWARD) { scale = weights[row] / f32(channels); }
  var sum = vec2f(0);
  for (var c = 0u; c < channels; c++) {
    let at = row * 2 * channels + c;
    let noise_c = noise[row * channels + c];
    let error = net[at] - noise_c;
    let delta = 0.5 * (net[at + channels] + 1) * step.w;
    var vb: vec2f;
    if (time == 0) {
      let x0 = (x_t[row * channels + c] - step.y * noise_c) / step.x;
      vb = likelihood(delta, step.z * error, x0);
    } else {
      vb = divergence(delta, step.z * error);
    }
    sum += vec2f(error * error, vb.x);
    if (BACKWARD) {
      d_net[at] = scale * 2 * error;
      d_net[at + channels] = scale * BITS * 0.5 * step.w * vb.y;
    }
  }
  terms[row] = sum / f32(channels) * vec2f(1, BITS);
}
