// dpm_solver: one evaluation of DPM-Solver++ (singlestep), with guidance.
//
//   net    [rows or 2 rows, net_width]  f32   network output, noise in the first `channels` columns;
//                                             guided: conditional rows, then unconditional rows
//   x      [rows or 2 rows, channels]   f32   the point evaluated; becomes the next one (both halves when guided)
//   x_base [rows, channels]             f32   start of the outer step, written when `first`
//   m_base [rows, channels]             f32   data prediction there, written when `first`
//
//   noise = u + guidance (c - u);  m = (x - sigma noise) / alpha;  x = a x_base + b m_base + c m
//
// Scalars come from the host, computed in float64. One invocation an element.
// Grid: ceil(rows * channels / 64), folded over y beyond 32768.
// Lu et al. 2022 (arXiv 2211.01095), equations 8-9 and algorithm 1; Ho, Salimans 2022, equation 6.
requires immediate_address_space;

struct Params {
  rows: u32, channels: u32, net_width: u32, guided: u32, first: u32,
  guidance: f32, alpha: f32, sigma: f32, a: f32, b: f32, c: f32,
}

@group(0) @binding(0) var<storage, read> net: array<f32>;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> x_base: array<f32>;
@group(0) @binding(3) var<storage, read_write> m_base: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let element = id.y * 32768 * 64 + id.x;
  let size = params.rows * params.channels;
  if (element >= size) { return; }
  let at = element / params.channels * params.net_width + element % params.channels;
  var noise = net[at];
  if (params.guided == 1) {
    let unconditional = net[at + params.rows * params.net_width];
    noise = unconditional + params.guidance * (noise - unconditional);
  }
  let point = x[element];
  let m = (point - params.sigma * noise) / params.alpha;
  if (params.first == 1) {
    x_base[element] = point;
    m_base[element] = m;
  }
  let next = params.a * x_base[element] + params.b * m_base[element] + params.c * m;
  x[element] = next;
  if (params.guided == 1) { x[element + size] = next; }
}
