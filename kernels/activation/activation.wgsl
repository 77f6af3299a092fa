// activation: y = f4(f3(f2(f1(x + row)))), each f none (0), GELU by erf (1), SiLU (2) or tanh (3), applied a number of
// times; element by element. Activations in a row stay in registers.
//
//   x   [rows, width]  f32
//   row [width]        f32   added to every row when ADD_ROW (a time embedding)
//   y   [rows, width]  Elem
//
// width and row_offset are counted in Vecs. One invocation a Vec. Grid: ceil(size / 64), folded over y beyond 32768.
// Hendrycks, Gimpel 2016. erf: a polynomial near zero, 1 - exp(polynomial) beyond (N. Juffa), within 1 ulp.
requires immediate_address_space;

alias Vec = vec4<f32>;                // f32: a width that is not a multiple of 4
alias Elem = vec4<f32>;               // f32, or vec4<f16>, f16: storage of y
override F1: u32 = 2;
override F2: u32 = 0;
override F3: u32 = 0;
override F4: u32 = 0;
override ADD_ROW: bool = false;

struct Params { size: u32, width: u32, row_offset: u32, times1: u32, times2: u32, times3: u32, times4: u32 }

@group(0) @binding(0) var<storage, read> x: array<Vec>;
@group(0) @binding(1) var<storage, read> row: array<Vec>;
@group(0) @binding(2) var<storage, read_write> y: array<Elem>;
var<immediate> params: Params;

fn erf(v: Vec) -> Vec {
  let s = v * v;
  var p = ((((-5.96761703e-4 * s + 4.99119423e-3) * s - 2.67681349e-2) * s + 1.12819925e-1) * s - 3.76125336e-1) * s;
  let near = (p + 1.28379166e-1) * v + v;
  let t = min(abs(v), Vec(4)); // erf(4) is 1 in f32
  p = (-1.72853470e-5 * t + 3.83197126e-4) * t * t + (-3.88396438e-3 * t + 2.42546219e-2);
  p = ((p * t - 1.06777877e-1) * t - 6.34846687e-1) * t - 1.28717512e-1;
  return select(sign(v) * (1.0 - exp(p * t - t)), near, t <= Vec(0.927734375));
}

fn repeated(f: u32, times: u32, value: Vec) -> Vec {
  var v = value;
  for (var i = 0u; i < times; i++) {
    if (f == 1) { v = 0.5 * v * (1.0 + erf(v * 0.70710678)); }
    if (f == 2) { v = v / (1.0 + exp(-v)); }
    if (f == 3) { v = tanh(v); }
  }
  return v;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.y * 32768 * 64 + id.x;
  if (i >= params.size) { return; }
  var v = x[i];
  if (ADD_ROW) { v += row[params.row_offset + i % params.width]; }
  v = repeated(F1, params.times1, v);
  if (F2 != 0) { v = repeated(F2, params.times2, v); }
  if (F3 != 0) { v = repeated(F3, params.times3, v); }
  if (F4 != 0) { v = repeated(F4, params.times4, v); }
  y[i] = Elem(v);
}
