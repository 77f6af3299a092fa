// depthwise 3 x 3 convolution and SiLU gate of a GLU mobile convolution, channels last: what the gate lets through.
//
//   z[b, p, q, c] = bias[c] + sum_{i, j < 3} x[b, p + i - 1, q + j - 1, c] w[i, j, c]
//   y[b, p, q, c] = z[b, p, q, c] silu(z[b, p, q, channels + c])
//
//   x     [batch, height, width, 2 channels]   f32   zero outside
//   w     [3, 3, 2 channels]                   f32
//   bias  [2 channels]                         f32
//   y     [batch, height, width, channels]     f32
//
// z is not stored. `channels` counts Vecs. An invocation makes four pixels of a row in one Vec of channels, so that
// each x loaded serves up to three of them and each w all four; neighbours take neighbouring channels. Bound by memory.
// Any adapter. Grid: ceil(batch * height * ceil(width / 4) * channels / 64), folded over y beyond 32768.
// Xie et al. 2024 (SANA), section 2.2: Mix-FFN; as DC-AE has it.
requires immediate_address_space;

alias Vec = vec4<f32>;   // f32 where channels is no multiple of four

struct Params { batch: u32, height: u32, width: u32, channels: u32 }

@group(0) @binding(0) var<storage, read> x: array<Vec>;
@group(0) @binding(1) var<storage, read> w: array<Vec>;
@group(0) @binding(2) var<storage, read> bias: array<Vec>;
@group(0) @binding(3) var<storage, read_write> y: array<Vec>;
var<immediate> params: Params;

// A pixel of x in one Vec of channels, zero outside of its row; `line` is the row's first pixel.
fn load(line: u32, column: u32, channel: u32) -> Vec {
  let inside = column < params.width; // left of the first: wraps around, too large
  return select(Vec(0), x[(line + select(0, column, inside)) * 2 * params.channels + channel], inside);
}

// The convolution at four pixels of a row, from `column` on, in one Vec of channels; `image` is its first row's number.
fn strip(image: u32, row: u32, column: u32, channel: u32) -> array<Vec, 4> {
  var a = bias[channel];
  var b = a;
  var c = a;
  var d = a;
  for (var p = max(row, 1) - 1; p < min(row + 2, params.height); p++) {
    let line = (image + p) * params.width;
    let w_at = (p + 1 - row) * 6 * params.channels + channel;
    let left = w[w_at];
    let middle = w[w_at + 2 * params.channels];
    let right = w[w_at + 4 * params.channels];
    let x0 = load(line, column - 1, channel);
    let x1 = load(line, column, channel);
    let x2 = load(line, column + 1, channel);
    let x3 = load(line, column + 2, channel);
    let x4 = load(line, column + 3, channel);
    let x5 = load(line, column + 4, channel);
    a += x0 * left + x1 * middle + x2 * right;
    b += x1 * left + x2 * middle + x3 * right;
    c += x2 * left + x3 * middle + x4 * right;
    d += x3 * left + x4 * middle + x5 * right;
  }
  return array(a, b, c, d);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let at = (group.y * 32768 + group.x) * 64 + index;
  let channel = at % params.channels;
  let strips = (params.width + 3) / 4;
  let column = at / params.channels % strips * 4;
  let line = at / params.channels / strips; // a row of pixels, of all images
  if (line >= params.batch * params.height) { return; }
  let row = line % params.height;

  let values = strip(line - row, row, column, channel);
  let gates = strip(line - row, row, column, params.channels + channel);
  let y_at = (line * params.width + column) * params.channels + channel;
  for (var s = 0u; s < min(4, params.width - column); s++) {
    y[y_at + s * params.channels] = values[s] * gates[s] / (1.0 + exp(-gates[s]));
  }
}
