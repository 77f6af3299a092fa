// conv2d (GPUs): y = activation(x * w + bias) + residual as a matrix product whose rows are output pixels (implicit
// GEMM), tiles in workgroup memory, a block of outputs in each invocation's registers.
//
//   x        [batch, in_height, in_width, in_channels]            In      zero outside; equation in reference.wgsl
//   w        [phases][out_channels][kernel_height][kernel_width][in_channels / groups]  Weight
//   bias     [out_channels]                                       f32     read when HAS_BIAS
//   residual [batch, out_height, out_width, out_channels]         f32     read when HAS_RESIDUAL; not the buffer of y
//   y        [batch, out_height, out_width, out_channels]         Out
//
// Epilogue, in this order: + bias; activation (0 none, 2 SiLU, 3 ReLU); + residual.
// PHASES: a 3 x 3 convolution, one pixel of padding, over x enlarged twice by repeating pixels. An output of even or
// odd row and column sees 2 x 2 different pixels of x, so each of these four phases is a 2 x 2 convolution over x with
// the weights that meet in a pixel added beforehand: 4 products in place of 9, and nothing is enlarged.
//
// Any sizes. matmul/tiled.wgsl's scheme: a workgroup (16 x 16) makes TILE_M pixels x TILE_N channels. For each place
// of the kernel and each TILE_K inputs it copies that much of its pixels and weights into workgroup memory, four
// rows to a vec4; an invocation, 4 ROW_QUADS pixels x 4 COLUMN_QUADS channels, copies of the same pixels throughout.
// Grid: ceil(pixels / TILE_M) x ceil(n / TILE_N) x (phases * groups), pixels those of one phase, n the outputs of a
// group, TILE_M = 64 ROW_QUADS, TILE_N = 64 COLUMN_QUADS; folded over y beyond 32768 tiles of pixels.
// Workgroup memory: 16 TILE_K (TILE_M / 4 + TILE_N / 4 + 2) bytes: 8704 as it stands.
requires immediate_address_space;

alias In = f32;      // f16: storage of x
alias Out = f32;     // f16: storage of y
alias Weight = f32;  // f16: storage of w
const ROW_QUADS: u32 = 1;
const COLUMN_QUADS: u32 = 1;
const TILE_K: u32 = 16;

const TILE_M: u32 = 64 * ROW_QUADS;
const TILE_N: u32 = 64 * COLUMN_QUADS;
const SHARE: u32 = TILE_K * ROW_QUADS / 16;  // vec4s of x that an invocation copies a step

override HAS_BIAS: bool = false;
override ACTIVATION: u32 = 0;
override HAS_RESIDUAL: bool = false;
override PHASES: bool = false;

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

// [k][row / 4]; one vec4 of padding a line keeps the writers of a column in different banks.
var<workgroup> x_tile: array<array<vec4f, TILE_M / 4 + 1>, TILE_K>;
var<workgroup> w_tile: array<array<vec4f, TILE_N / 4 + 1>, TILE_K>;

const OUTSIDE: u32 = 0xffffffff;

// Where an output's window begins in x, less the padding, and the first pixel of its image.
struct Window { corner: vec2u, image: u32 }

fn window(row: u32, size: vec2u, pad: vec2u) -> Window {
  if (row >= params.batch * size.x * size.y) { return Window(vec2u(0x7fffffff), 0); } // all of it outside
  let corner = vec2u(row % size.x, row / size.x % size.y) * params.stride - pad;
  return Window(corner, row / (size.x * size.y) * params.in_height * params.in_width);
}

// The first element of the pixel at a place of the kernel, or OUTSIDE.
fn locate(seen: Window, tap: vec2u, first: u32) -> u32 {
  let p = seen.corner + tap; // before the first pixel: wraps around, too large
  if (p.x >= params.in_width || p.y >= params.in_height) { return OUTSIDE; }
  return (seen.image + p.y * params.in_width + p.x) * params.in_channels + first;
}

fn load_x(at: u32, k: u32, inputs: u32) -> f32 {
  if (at == OUTSIDE || k >= inputs) { return 0.0; }
  return f32(x[at + k]);
}

fn activate(v: f32) -> f32 {
  if (ACTIVATION == 2) { return v / (1.0 + exp(-v)); }
  if (ACTIVATION == 3) { return max(v, 0.0); }
  return v;
}

fn finish(sum: f32, pixel: u32, channel: u32) {
  let at = pixel * params.out_channels + channel;
  var value = sum;
  if (HAS_BIAS) { value += bias[channel]; }
  value = activate(value);
  if (HAS_RESIDUAL) { value += residual[at]; }
  y[at] = Out(value);
}

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let inputs = params.in_channels / params.groups;
  let outputs = params.out_channels / params.groups;
  let phase = vec2u(group.z / params.groups % 2, group.z / params.groups / 2); // column, row
  let g = group.z % params.groups;
  let size = select(vec2u(params.out_width, params.out_height), vec2u(params.in_width, params.in_height), PHASES);
  let pad = select(vec2u(params.pad_left, params.pad_top), 1 - phase, PHASES);
  let rows = params.batch * size.x * size.y;
  let across = (outputs + TILE_N - 1) / TILE_N;
  let first_row = (group.y / across * 32768 + group.x) * TILE_M;
  let first_column = group.y % across * TILE_N;
  if (first_row >= rows) { return; }

  // Copying: input index % TILE_K of the pixel quads index / TILE_K, + 256 / TILE_K, ...
  let x_k = index % TILE_K;
  var windows: array<array<Window, 4>, SHARE>;
  for (var s = 0u; s < SHARE; s++) {
    let row = first_row + (index + 256 * s) / TILE_K * 4;
    for (var r = 0u; r < 4; r++) { windows[s][r] = window(row + r, size, pad); }
  }

  // Row quad i of an invocation is quad local.y + 16 i of the tile, column quad j is local.x + 16 j.
  var acc: array<array<mat4x4f, COLUMN_QUADS>, ROW_QUADS>;
  let taps = params.kernel_height * params.kernel_width;
  let w_start = group.z * outputs * taps * inputs;
  for (var tap = 0u; tap < taps; tap++) {
    let offset = vec2u(tap % params.kernel_width, tap / params.kernel_width);
    var x_at: array<vec4u, SHARE>;
    for (var s = 0u; s < SHARE; s++) {
      for (var r = 0u; r < 4; r++) { x_at[s][r] = locate(windows[s][r], offset, g * inputs); }
    }
    for (var start = 0u; start < inputs; start += TILE_K) {
      for (var s = 0u; s < SHARE; s++) {
        let at = x_at[s];
        let k = start + x_k;
        x_tile[x_k][(index + 256 * s) / TILE_K] = vec4f(
          load_x(at[0], k, inputs), load_x(at[1], k, inputs), load_x(at[2], k, inputs), load_x(at[3], k, inputs));
      }
      for (var i = index; i < TILE_K * TILE_N / 4; i += 256) {
        let k = i % TILE_K;
        let quad = i / TILE_K;
        var values = vec4f(0);
        for (var c = 0u; c < 4; c++) {
          let column = first_column + quad * 4 + c;
          if (column < outputs && start + k < inputs) {
            values[c] = f32(w[w_start + (column * taps + tap) * inputs + start + k]);
          }
        }
        w_tile[k][quad] = values;
      }
      workgroupBarrier();

      for (var k = 0u; k < TILE_K; k++) {
        for (var i = 0u; i < ROW_QUADS; i++) {
          let pixels = x_tile[k][local.y + 16 * i];
          for (var j = 0u; j < COLUMN_QUADS; j++) {
            let columns = w_tile[k][local.x + 16 * j];
            acc[i][j] += mat4x4f(pixels.x * columns, pixels.y * columns, pixels.z * columns, pixels.w * columns);
          }
        }
      }
      workgroupBarrier();
    }
  }

  for (var i = 0u; i < ROW_QUADS; i++) {
    for (var r = 0u; r < 4; r++) {
      let row = first_row + (local.y + 16 * i) * 4 + r;
      if (row >= rows) { continue; }
      var pixel = row;
      if (PHASES) {
        let place = 2 * vec2u(row % size.x, row / size.x) + phase;
        pixel = place.y * params.out_width + place.x;
      }
      for (var j = 0u; j < COLUMN_QUADS; j++) {
        for (var c = 0u; c < 4; c++) {
          let column = first_column + (local.x + 16 * j) * 4 + c;
          if (column < outputs) { finish(acc[i][j][r][c], pixel, g * outputs + column); }
        }
      }
    }
  }
}
