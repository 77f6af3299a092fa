// RMS norm over channels (reference): y = activation(x / sqrt(mean(x^2) + eps) weight + bias) + residual, over each
// row. Operands as in rms_norm_channels.wgsl, any width.
//
// activation: 0 none, 3 ReLU. One invocation a row: for reading, checking and odd widths.
// Grid: ceil(rows / 64), folded over y beyond 32768.
requires immediate_address_space;

override ACTIVATION: u32 = 0;
override HAS_RESIDUAL: bool = false;

struct Params { rows: u32, width: u32, eps: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> residual: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let row = (group.y * 32768 + group.x) * 64 + index;
  if (row >= params.rows) { return; }
  let start = row * params.width;

  var squares = 0.0;
  for (var i = 0u; i < params.width; i++) { squares += x[start + i] * x[start + i]; }
  let scale = inverseSqrt(squares / f32(params.width) + params.eps);

  for (var i = 0u; i < params.width; i++) {
    var value = x[start + i] * scale * weight[i] + bias[i];
    if (ACTIVATION == 3) { value = max(value, 0.0); }
    if (HAS_RESIDUAL) { value += residual[start + i]; }
    y[start + i] = value;
  }
}
