// RMS norm over channels: y = activation(x / sqrt(mean(x^2) + eps) weight + bias) + residual, over each row.
//
//   x        [rows, width]  f32   a pixel a row, channels last; width a multiple of 4
//   weight   [width]        f32
//   bias     [width]        f32
//   residual [rows, width]  f32   read when HAS_RESIDUAL; may not be the buffer of y
//   y        [rows, width]  f32
//
// activation: 0 none, 3 ReLU. One subgroup a workgroup, ROWS rows a workgroup one after the other; lane i takes the
// vec4s i, i + LANES, i + 2 LANES, ... Statistics in f32. No workgroup memory, no barriers.
// Grid: ceil(rows / ROWS), folded over y beyond 32768.
// For: CPU drivers. Adds to rms_norm_channels.wgsl: sums by subgroupAdd, and several rows to pay for the workgroup.
// Zhang, Sennrich 2019, equation 4; with a bias as DC-AE has it (trms2d).
requires immediate_address_space;
enable subgroups;

const LANES: u32 = 8;    // the adapter's subgroup size
const ROWS: u32 = 8;
override ACTIVATION: u32 = 0;
override HAS_RESIDUAL: bool = false;

struct Params { rows: u32, width: u32, eps: f32 }

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> weight: array<vec4f>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read> residual: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;
var<immediate> params: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = (group.y * 32768 + group.x) * ROWS;
  let end = min(first + ROWS, params.rows);
  let quads = params.width / 4;
  for (var row = first; row < end; row++) {
    let start = row * quads;
    var squares = vec4f(0);
    for (var i = lane; i < quads; i += LANES) { squares += x[start + i] * x[start + i]; }
    let scale = inverseSqrt(subgroupAdd(dot(squares, vec4f(1))) / f32(params.width) + params.eps);

    for (var i = lane; i < quads; i += LANES) {
      var value = x[start + i] * scale * weight[i] + bias[i];
      if (ACTIVATION == 3) { value = max(value, vec4f(0)); }
      if (HAS_RESIDUAL) { value += residual[start + i]; }
      y[start + i] = value;
    }
  }
}
