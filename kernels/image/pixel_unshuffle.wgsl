// pixel unshuffle: squares of f x f pixels into channels, plus a shortcut that is unshuffled and averaged.
//
//   y[b, i, j, o] = scale (u(x)[b, i, j, o] + 1/G sum_{g < G} u(shortcut)[b, i, j, o G + g])
//   u(z)[b, i, j, c f f + p f + q] = z[b, f i + p, f j + q, c]
//
//   x        [batch, f height, f width, x_channels]      f32   channels / (f f) of them are read
//   shortcut [batch, f height, f width, short_channels]  f32   read when HAS_SHORTCUT; G = short_channels f f / channels
//   y        [batch, height, width, channels]            f32
//
// f = FACTOR; f = 1 averages channels and moves no pixel. `size` counts the numbers of y.
// Bound by memory. Any adapter. One invocation a number of y. Grid: ceil(size / 64), folded over y beyond 32768.
// Chen et al. 2024 (DC-AE), figure 4: the residual downsampling block.
requires immediate_address_space;

override FACTOR: u32 = 2;  // fixed early: most divisions become shifts
override HAS_SHORTCUT: bool = false;

struct Params { size: u32, width: u32, channels: u32, x_channels: u32, short_channels: u32, scale: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> shortcut: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let at = (group.y * 32768 + group.x) * 64 + index;
  if (at >= params.size) { return; }
  let o = at % params.channels;
  let pixel = at / params.channels;
  let f = FACTOR;
  let row = pixel / params.width; // of all images: their heights are multiples of f
  let column = pixel % params.width;
  let line = params.width * f;    // pixels of a row of x

  let place = (row * f + o % (f * f) / f) * line + column * f + o % f;
  var value = x[place * params.x_channels + o / (f * f)];
  if (HAS_SHORTCUT) {
    let members = params.short_channels * f * f / params.channels;
    var sum = 0.0;
    for (var u = o * members; u < (o + 1) * members; u++) {
      let seen = (row * f + u % (f * f) / f) * line + column * f + u % f;
      sum += shortcut[seen * params.short_channels + u / (f * f)];
    }
    value += sum / f32(members);
  }
  y[at] = params.scale * value;
}
