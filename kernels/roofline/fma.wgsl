// roofline, the roof: y = what is left of arithmetic alone, to measure how many multiply-adds a second there are.
//
//   y   [invocations]  Elem4   written once at the end, so that nothing is left out
//
// An invocation takes three independent vectors of four through 8 * STEPS steps v <- scale * v + shift: 24 FLOP each, no
// load. Three, since that is what the registers of a CPU hold beside the operands; eight steps written out, since the
// loop costs a CPU driver as much as a step or two. Any adapter.
// Grid: invocations / 64. Williams, Waterman, Patterson 2009, "Roofline: an insightful visual performance model".
requires immediate_address_space;

alias Elem4 = vec4<f32>;   // vec4<f16>: half precision
const STEPS: u32 = 128;

struct Params { scale: f32, shift: f32 }

@group(0) @binding(0) var<storage, read_write> y: array<Elem4>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let scale = Elem4(vec4f(params.scale));
  let shift = Elem4(vec4f(params.shift));
  var a = Elem4(vec4f(f32(id.x % 64)));
  var b = a + shift;
  var c = b + shift;
  for (var i = 0u; i < STEPS; i++) {
    a = fma(a, scale, shift); b = fma(b, scale, shift); c = fma(c, scale, shift);
    a = fma(a, scale, shift); b = fma(b, scale, shift); c = fma(c, scale, shift);
    a = fma(a, scale, shift); b = fma(b, scale, shift); c = fma(c, scale, shift);
    a = fma(a, scale, shift); b = fma(b, scale, shift); c = fma(c, scale, shift);
    a = fma(a, scale, shift); b = fma(b, scale, shift); c = fma(c, scale, shift);
    a = fma(a, scale, shift); b = fma(b, scale, shift); c = fma(c, scale, shift);
    a = fma(a, scale, shift); b = fma(b, scale, shift); c = fma(c, scale, shift);
    a = fma(a, scale, shift); b = fma(b, scale, shift); c = fma(c, scale, shift);
  }
  y[id.x] = a + b + c;
}
