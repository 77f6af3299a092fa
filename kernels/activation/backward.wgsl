// activation backward: d_x = d_y f'(x + row), f GELU by erf (1), SiLU (2) or tanh (3), from the input of the activation.
//
//   gelu'(v) = cdf(v) + v pdf(v) of the standard normal;  silu'(v) = s (1 + v (1 - s)), s = 1 / (1 + exp(-v));
//   tanh'(v) = 1 - tanh(v)^2
//
//   x    [rows, width]  f32   what the activation was applied to
//   row  [width]        f32   added to every row when ADD_ROW
//   d_y  [rows, width]  f32
//   d_x  [rows, width]  f32   written: the gradient of x; that of row is its sum over the rows
//
// width and row_offset are counted in Vecs. One invocation a Vec. Grid: ceil(size / 64), folded over y beyond 32768.
requires immediate_address_space;

alias Vec = vec4<f32>;                // f32: a width that is not a multiple of 4
override F: u32 = 2;
override ADD_ROW: bool = false;

struct Params { size: u32, width: u32, row_offset: u32 }

@group(0) @binding(0) var<storage, read> x: array<Vec>;
@group(0) @binding(1) var<storage, read> row: array<Vec>;
@group(0) @binding(2) var<storage, read> d_y: array<Vec>;
@group(0) @binding(3) var<storage, read_write> d_x: array<Vec>;
var<immediate> params: Params;

// As in activation.wgsl.
fn erf(v: Vec) -> Vec {
  let s = v * v;
  var p = ((((-5.96761703e-4 * s + 4.99119423e-3) * s - 2.67681349e-2) * s + 1.12819925e-1) * s - 3.76125336e-1) * s;
  let near = (p + 1.28379166e-1) * v + v;
  let t = min(abs(v), Vec(4)); // erf(4) is 1 in f32
  p = (-1.72853470e-5 * t + 3.83197126e-4) * t * t + (-3.88396438e-3 * t + 2.42546219e-2);
  p = ((p * t - 1.06777877e-1) * t - 6.34846687e-1) * t - 1.28717512e-1;
  return select(sign(v) * (1.0 - exp(p * t - t)), near, t <= Vec(0.927734375));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.y * 32768 * 64 + id.x;
  if (i >= params.size) { return; }
  var v = x[i];
  if (ADD_ROW) { v += row[params.row_offset + i % params.width]; }
  var slope = Vec(1);
  if (F == 1) { slope = 0.5 + 0.5 * erf(v * 0.70710678) + v * exp(-0.5 * v * v) * 0.39894228; }
  if (F == 2) {
    let s = 1.0 / (1.0 + exp(-v));
    slope = s * (1.0 + v * (1.0 - s));
  }
  if (F == 3) {
    let t = tanh(v);
    slope = 1.0 - t * t;
  }
  d_x[i] = d_y[i] * slope;
}
