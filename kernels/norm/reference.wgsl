// layernorm (reference): y = (x - mean(x)) / sqrt(var(x) + eps), times weight plus bias (AFFINE), then the adaptive
// modulation y (1 + scale) + shift (MODULATE), over each row. Operands as in layernorm.wgsl, any width.
//
// One invocation a row: for reading, checking and odd widths. Grid: ceil(rows / 64).
requires immediate_address_space;

alias Elem = f32;                     // f16: storage of y
alias Mod = f32;                      // f16: storage of modulation
override AFFINE: bool = true;
override MODULATE: bool = false;

struct Params { rows: u32, width: u32, eps: f32, stride: u32, shift_offset: u32, scale_offset: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> modulation: array<Mod>;
@group(0) @binding(4) var<storage, read_write> y: array<Elem>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.x;
  if (row >= params.rows) { return; }
  let start = row * params.width;

  var total = 0.0;
  for (var i = 0u; i < params.width; i++) { total += x[start + i]; }
  let mean = total / f32(params.width);

  var squares = 0.0;
  for (var i = 0u; i < params.width; i++) {
    let d = x[start + i] - mean;
    squares += d * d;
  }
  let scale = inverseSqrt(squares / f32(params.width) + params.eps);

  for (var i = 0u; i < params.width; i++) {
    var normal = (x[start + i] - mean) * scale;
    if (AFFINE) { normal = normal * weight[i] + bias[i]; }
    if (MODULATE) {
      let at = row * params.stride + i;
      normal = normal * (1 + f32(modulation[at + params.scale_offset])) + f32(modulation[at + params.shift_offset]);
    }
    y[start + i] = Elem(normal);
  }
}
