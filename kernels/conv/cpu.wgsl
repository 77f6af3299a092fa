// conv2d (CPU drivers): y = activation(x * w + bias) + residual as a matrix product whose rows are output pixels
// (implicit GEMM), w packed so that a lane reads one 4 x 4 block a load.
//
//   x        [batch, in_height, in_width, in_channels]    In     zero outside; equation in reference.wgsl
//   w        [phases][groups][ceil(n / (4 * LANES))][kernel_height * kernel_width * k / 4][LANES] mat4x4f, zero padded,
//            k and n the inputs and outputs of a group, both multiples of 4: in block (.., c, i, lane), column q,
//            row j is the weight of output (c * LANES + lane) * 4 + j and input 4 i + q of [kernel row][column][k]
//   bias     [out_channels]                               f32    read when HAS_BIAS
//   residual [batch, out_height, out_width, out_channels] f32    read when HAS_RESIDUAL; may not be the buffer of y
//   y        [batch, out_height, out_width, out_channels] Out
//
// Epilogue, in this order: + bias; activation (0 none, 2 SiLU, 3 ReLU); + residual.
// PHASES: a 3 x 3 convolution, one pixel of padding, over x enlarged twice by repeating pixels. An output of even or
// odd row and column sees 2 x 2 different pixels of x, so each of these four phases is a 2 x 2 convolution over x with
// the weights that meet in a pixel added beforehand: 4 products in place of 9, and nothing is enlarged.
//
// matmul/cpu.wgsl's scheme: the subgroup is the workgroup, each lane loads four channels of its own pixels and one
// block of w, and the pixels are spread over the lanes by subgroupShuffle. A workgroup makes ROWS pixels x
// 4 * LANES channels; neighbours in x share the block of w, which stays in the cache. ROWS does not change the order
// of a sum (kernel row, column, input).
// Grid: ceil(pixels / ROWS) x ceil(n / (4 * LANES)) x (phases * groups), pixels those of one phase; folded over y beyond
// 32768 groups of pixels.
requires immediate_address_space;
enable subgroups;

alias In4 = vec4<f32>;    // vec4<f16>: storage of x
alias Out4 = vec4<f32>;   // vec4<f16>: storage of y
const LANES: u32 = 8;     // the adapter's subgroup size
const ROWS: u32 = 16;     // multiple of LANES

override HAS_BIAS: bool = false;
override ACTIVATION: u32 = 0;
override HAS_RESIDUAL: bool = false;
override PHASES: bool = false;

struct Params {
  batch: u32, in_height: u32, in_width: u32, in_channels: u32,
  out_height: u32, out_width: u32, out_channels: u32,
  kernel_height: u32, kernel_width: u32, stride: u32, pad_top: u32, pad_left: u32, groups: u32,
}

@group(0) @binding(0) var<storage, read> x: array<In4>;
@group(0) @binding(1) var<storage, read> w: array<mat4x4f>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read> residual: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> y: array<Out4>;
var<immediate> params: Params;

fn activate(v: vec4f) -> vec4f {
  if (ACTIVATION == 2) { return v / (1.0 + exp(-v)); }
  if (ACTIVATION == 3) { return max(v, vec4f(0)); }
  return v;
}

fn finish(sum: vec4f, pixel: u32, quad: u32) {
  let at = pixel * (params.out_channels / 4) + quad;
  var value = sum;
  if (HAS_BIAS) { value += bias[quad]; }
  value = activate(value);
  if (HAS_RESIDUAL) { value += residual[at]; }
  y[at] = Out4(value);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let in_quads = params.in_channels / 4;
  let group_quads = in_quads / params.groups;
  let n_quads = params.out_channels / 4 / params.groups;
  let phase = vec2u(group.z / params.groups % 2, group.z / params.groups / 2); // column, row
  let g = group.z % params.groups;
  let size = select(vec2u(params.out_width, params.out_height), vec2u(params.in_width, params.in_height), PHASES);
  let pad = select(vec2u(params.pad_left, params.pad_top), 1 - phase, PHASES);
  let rows = params.batch * size.x * size.y;
  let across = (n_quads + LANES - 1) / LANES;
  let first_row = (group.y / across * 32768 + group.x) * ROWS;
  if (first_row >= rows) { return; }

  // The top left pixel of x that each of this lane's outputs sees, less the padding, and the image's first pixel;
  // outputs past the end repeat the last one and are not written.
  var corner: array<vec2u, ROWS / LANES>;
  var image: array<u32, ROWS / LANES>;
  for (var s = 0u; s < ROWS / LANES; s++) {
    let row = min(first_row + s * LANES + lane, rows - 1);
    corner[s] = vec2u(row % size.x, row / size.x % size.y) * params.stride - pad;
    image[s] = row / (size.x * size.y) * params.in_height * params.in_width;
  }

  var acc: array<vec4f, ROWS>;
  let taps = params.kernel_height * params.kernel_width;
  var at = (group.z * across + group.y % across) * taps * group_quads * LANES + lane;
  for (var i = 0u; i < params.kernel_height; i++) {
    for (var j = 0u; j < params.kernel_width; j++) {
      var x_at: array<u32, ROWS / LANES>;
      var inside: array<bool, ROWS / LANES>;
      for (var s = 0u; s < ROWS / LANES; s++) {
        let place = corner[s] + vec2u(j, i); // before the first pixel: wraps around, too large
        inside[s] = place.x < params.in_width && place.y < params.in_height;
        let pixel = select(0, image[s] + place.y * params.in_width + place.x, inside[s]);
        x_at[s] = pixel * in_quads + g * group_quads;
      }
      for (var q = 0u; q < group_quads; q++) {
        var part: array<vec4f, ROWS / LANES>;
        for (var s = 0u; s < ROWS / LANES; s++) {
          part[s] = select(vec4f(0), vec4f(x[x_at[s] + q]), inside[s]);
        }
        for (var h = 0u; h < 4; h += 2) {
          let w0 = w[at][h];
          let w1 = w[at][h + 1];
          for (var s = 0u; s < ROWS / LANES; s++) {
            for (var r = 0u; r < LANES; r++) {
              let v = subgroupShuffle(vec2f(part[s][h], part[s][h + 1]), r);
              let row = s * LANES + r;
              acc[row] = fma(w1, vec4f(v.y), fma(w0, vec4f(v.x), acc[row]));
            }
          }
        }
        at += LANES;
      }
    }
  }

  let n_quad = group.y % across * LANES + lane;
  if (n_quad >= n_quads) { return; }
  // Bounds that are not constant keep the driver from unrolling this loop: a tenth of the compile time.
  let end = min(first_row + ROWS, rows);
  for (var row = first_row; row < end; row++) {
    var pixel = row;
    if (PHASES) {
      let place = 2 * vec2u(row % size.x, row / size.x) + phase;
      pixel = place.y * params.out_width + place.x;
    }
    finish(acc[row - first_row], pixel, g * n_quads + n_quad);
  }
}
