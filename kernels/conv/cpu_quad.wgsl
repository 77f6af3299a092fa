// conv2d (CPU drivers, four lanes): y = activation(x * w + bias) + residual as a matrix product whose rows are output
// pixels, w packed so that a lane reads one 4 x 4 block a load.
//
//   x        [batch, in_height, in_width, in_channels]    In     zero outside; equation in reference.wgsl
//   w        [phases][groups][ceil(n / 16)][kernel_height * kernel_width * k / 4][4] mat4x4f, as cpu.wgsl's
//   bias     [out_channels]                               f32    read when HAS_BIAS
//   residual [batch, out_height, out_width, out_channels] f32    read when HAS_RESIDUAL; may not be the buffer of y
//   y        [batch, out_height, out_width, out_channels] Out
//
// Epilogue, in this order: + bias; activation (0 none, 2 SiLU, 3 ReLU); + residual. PHASES: see cpu.wgsl.
//
// The sibling of cpu.wgsl for drivers whose subgroup is four lanes (SwiftShader). What it adds, as
// matmul/cpu_quad.wgsl does: no broadcasts. Lane l loads pixel l of a group of four; three quad swaps bring it pixels
// l ^ 1, l ^ 2 and l ^ 3, so that column s of an accumulator belongs to pixel (lane ^ s) of the group.
// A workgroup makes ROWS pixels x 16 channels, a lane ROWS x 4. The order of a sum is cpu.wgsl's for any ROWS.
// Grid: ceil(pixels / ROWS) x ceil(n / 16) x (phases * groups), pixels those of one phase; folded over y beyond 32768
// groups of pixels.
requires immediate_address_space;
enable subgroups;

alias In4 = vec4<f32>;    // vec4<f16>: storage of x
alias Out4 = vec4<f32>;   // vec4<f16>: storage of y
const LANES: u32 = 4;     // the adapter's subgroup size
const ROWS: u32 = 16;     // 4, 8, 12 or 16

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

// Columns: the value in this lane, in the lane beside it, below it, across.
fn meet(v: vec4f) -> mat4x4f {
  return mat4x4f(v, quadSwapX(v), quadSwapY(v), quadSwapDiagonal(v));
}

// Where an output's window begins in x, less the padding, and the first pixel of its image.
struct Window { corner: vec2u, image: u32 }

fn window(row: u32, size: vec2u, pad: vec2u) -> Window {
  let corner = vec2u(row % size.x, row / size.x % size.y) * params.stride - pad;
  return Window(corner, row / (size.x * size.y) * params.in_height * params.in_width);
}

// Where a pixel's channels begin in x, and whether there is such a pixel; if not, where the first one's do.
struct Place { at: u32, inside: bool }

fn load(seen: Place, quad: u32) -> vec4f { return select(vec4f(0), vec4f(x[seen.at + quad]), seen.inside); }

fn place(seen: Window, tap: vec2u, first: u32) -> Place {
  let p = seen.corner + tap; // before the first pixel: wraps around, too large
  let inside = p.x < params.in_width && p.y < params.in_height;
  let pixel = select(0, seen.image + p.y * params.in_width + p.x, inside);
  return Place(pixel * (params.in_channels / 4) + first, inside);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let group_quads = params.in_channels / 4 / params.groups;
  let n_quads = params.out_channels / 4 / params.groups;
  let phase = vec2u(group.z / params.groups % 2, group.z / params.groups / 2); // column, row
  let g = group.z % params.groups;
  let size = select(vec2u(params.out_width, params.out_height), vec2u(params.in_width, params.in_height), PHASES);
  let pad = select(vec2u(params.pad_left, params.pad_top), 1 - phase, PHASES);
  let rows = params.batch * size.x * size.y;
  let across = (n_quads + LANES - 1) / LANES;
  let first_row = (group.y / across * 32768 + group.x) * ROWS;
  if (first_row >= rows) { return; }

  // Outputs past the end repeat the last one and are not written.
  let last = rows - 1;
  let window0 = window(min(first_row + lane, last), size, pad);
  let window1 = window(min(first_row + 4 + lane, last), size, pad);
  let window2 = window(min(first_row + 8 + lane, last), size, pad);
  let window3 = window(min(first_row + 12 + lane, last), size, pad);

  var acc0 = mat4x4f();
  var acc1 = mat4x4f();
  var acc2 = mat4x4f();
  var acc3 = mat4x4f();
  let taps = params.kernel_height * params.kernel_width;
  var at = (group.z * across + group.y % across) * taps * group_quads * LANES + lane;
  let first = g * group_quads;
  for (var tap = 0u; tap < taps; tap++) {
    let offset = vec2u(tap % params.kernel_width, tap / params.kernel_width);
    let x0 = place(window0, offset, first);
    let x1 = place(window1, offset, first);
    let x2 = place(window2, offset, first);
    let x3 = place(window3, offset, first);
    for (var q = 0u; q < group_quads; q++) {
      let weights = w[at + q * LANES];
      acc0 += weights * meet(load(x0, q));
      if (ROWS > 4) { acc1 += weights * meet(load(x1, q)); }
      if (ROWS > 8) { acc2 += weights * meet(load(x2, q)); }
      if (ROWS > 12) { acc3 += weights * meet(load(x3, q)); }
    }
    at += group_quads * LANES;
  }

  let n_quad = group.y % across * LANES + lane;
  if (n_quad >= n_quads) { return; }
  let acc = array(acc0, acc1, acc2, acc3);
  for (var r = 0u; r < ROWS; r++) {
    let row = first_row + (r ^ lane);
    if (row >= rows) { continue; }
    var pixel = row;
    if (PHASES) {
      let whole = 2 * vec2u(row % size.x, row / size.x) + phase;
      pixel = whole.y * params.out_width + whole.x;
    }
    finish(acc[r / 4][r % 4], pixel, g * n_quads + n_quad);
  }
}
