// pixel shuffle: channels into squares of f x f pixels, plus a shortcut whose channels are repeated and shuffled.
//
//   y[b, f i + p, f j + q, first + c] = x[b, i, j, k] + shortcut[b, i, j, floor((first f f + k) / R)]
//   k = c f f + p f + q
//
//   x        [batch, height, width, x_channels]      f32   `part` f f of them are read
//   shortcut [batch, height, width, short_channels]  f32   read when HAS_SHORTCUT; R = channels f f / short_channels
//   y        [batch, f height, f width, channels]    f32   channels first .. first + part are written
//
// f = FACTOR; f = 1 adds repeated channels and moves no pixel. `size` counts the numbers written. `first` is for an x
// that a convolution makes in parts. Bound by memory. Any adapter. One invocation a number written.
// Grid: ceil(size / 64), folded over y beyond 32768. Chen et al. 2024 (DC-AE), figure 4: the residual upsampling block.
requires immediate_address_space;

override FACTOR: u32 = 2;  // fixed early: most divisions become shifts
override HAS_SHORTCUT: bool = false;

struct Params { size: u32, width: u32, channels: u32, x_channels: u32, short_channels: u32, first: u32, part: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> shortcut: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let at = (group.y * 32768 + group.x) * 64 + index;
  if (at >= params.size) { return; }
  let c = at % params.part;
  let pixel = at / params.part;
  let f = FACTOR;
  let row = pixel / (params.width * f); // of all images: their heights are multiples of f
  let column = pixel % (params.width * f);

  let k = c * f * f + row % f * f + column % f;
  let place = row / f * params.width + column / f;
  var value = x[place * params.x_channels + k];
  if (HAS_SHORTCUT) {
    let repeats = params.channels * f * f / params.short_channels;
    value += shortcut[place * params.short_channels + (params.first * f * f + k) / repeats];
  }
  y[pixel * params.channels + params.first + c] = value;
}
