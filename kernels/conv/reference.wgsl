// conv2d, reference version: y = activation(x * w + bias) + residual, channels last.
//
//   y[b, p, q, o] = sum_{i, j, c} x[b, stride p + i - pad_top, stride q + j - pad_left, c] w[o, i, j, c]
//
//   x        [batch, in_height, in_width, in_channels]            In      zero outside
//   w        [out_channels, kernel_height, kernel_width, in_channels / groups]  Weight
//   bias     [out_channels]                                       f32     read when HAS_BIAS
//   residual [batch, out_height, out_width, out_channels]         f32     read when HAS_RESIDUAL; not the buffer of y
//   y        [batch, out_height, out_width, out_channels]         Out
//
// Groups: outputs o of group o / (out_channels / groups) see that group's in_channels / groups inputs alone.
// UPSAMPLE: the convolution runs over x enlarged twice in both directions, each pixel repeated (nearest), which is
// never stored. Epilogue, in this order: + bias; activation (0 none, 2 SiLU, 3 ReLU); + residual.
//
// Any sizes. One invocation an output, sum in the order i, j, c. Grid: ceil(outputs / 64), folded over y beyond 32768.
// For reading and checking; faster siblings: tiled.wgsl (GPUs), cpu.wgsl, cpu_quad.wgsl (CPU drivers),
// depthwise.wgsl (one channel a group).
requires immediate_address_space;

alias In = f32;      // f16: storage of x
alias Out = f32;     // f16: storage of y
alias Weight = f32;  // f16: storage of w

override HAS_BIAS: bool = false;
override ACTIVATION: u32 = 0;
override HAS_RESIDUAL: bool = false;
override UPSAMPLE: bool = false;

struct Params {
  batch: u32, in_height: u32, in_width: u32, in_channels: u32,
  out_height: u32, out_width: u32, out_channels: u32,
  kernel_height: u32, kernel_width: u32, stride: u32, pad_top: u32, pad_left: u32, groups: u32,
}

@group(0) @binding(0) var<storage, read> x: array<In>;
@group(0) @binding(1) var<storage, read> w: array<Weight>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> residual: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<Out>;
var<immediate> params: Params;

fn activate(v: f32) -> f32 {
  if (ACTIVATION == 2) { return v / (1.0 + exp(-v)); }
  if (ACTIVATION == 3) { return max(v, 0.0); }
  return v;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let at = (group.y * 32768 + group.x) * 64 + index;
  let pixel = at / params.out_channels;
  let channel = at % params.out_channels;
  let row = pixel / params.out_width;
  let b = row / params.out_height;
  if (b >= params.batch) { return; }

  let group_inputs = params.in_channels / params.groups;
  let first_input = channel / (params.out_channels / params.groups) * group_inputs;
  let zoom = select(1u, 2u, UPSAMPLE);
  var sum = 0.0;
  var w_at = channel * params.kernel_height * params.kernel_width * group_inputs;
  for (var i = 0u; i < params.kernel_height; i++) {
    // Rows before the first wrap around and are too large, as those past the end are.
    let in_row = row % params.out_height * params.stride + i - params.pad_top;
    for (var j = 0u; j < params.kernel_width; j++) {
      let in_column = pixel % params.out_width * params.stride + j - params.pad_left;
      if (in_row < params.in_height * zoom && in_column < params.in_width * zoom) {
        let x_pixel = (b * params.in_height + in_row / zoom) * params.in_width + in_column / zoom;
        let x_at = x_pixel * params.in_channels + first_input;
        for (var c = 0u; c < group_inputs; c++) { sum += f32(x[x_at + c]) * f32(w[w_at + c]); }
      }
      w_at += group_inputs;
    }
  }
  if (HAS_BIAS) { sum += bias[channel]; }
  sum = activate(sum);
  if (HAS_RESIDUAL) { sum += residual[at]; }
  y[at] = Out(sum);
}
