// group norm, first of three: mean and sum of squares about it, of each group in each stretch of pixels of an image.
//
//   x        [batch, pixels, channels]    In     channels last
//   partial  [batch, stretches, groups]   vec2f  (mean, sum of squared differences from it), for
//                                                group_norm_combine.wgsl
//
// A stretch is `stretch` pixels, the last one maybe fewer; `stretches` of them cover an image. One invocation a
// (stretch, group), neighbours neighbouring groups; two passes, the second out of the cache, so that nothing
// cancels. The stretches depend on the image's size alone: an image's statistics are the same in any batch.
// Any adapter, any sizes. Grid: ceil(batch * stretches * groups / 64), folded over y beyond 32768.
requires immediate_address_space;

alias In = f32;  // f16: storage of x

struct Params { batch: u32, pixels: u32, channels: u32, groups: u32, stretch: u32, stretches: u32 }

@group(0) @binding(0) var<storage, read> x: array<In>;
@group(0) @binding(1) var<storage, read_write> partial: array<vec2f>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let element = id.y * 32768 * 64 + id.x;
  if (element >= params.batch * params.stretches * params.groups) { return; }
  let width = params.channels / params.groups;
  let place = element / params.groups;
  let first = place % params.stretches * params.stretch;
  let end = min(first + params.stretch, params.pixels);
  let start = place / params.stretches * params.pixels * params.channels + element % params.groups * width;

  // Sums of a pixel, then of all pixels, about the first number: small roundings, even of numbers far from zero.
  let shift = f32(x[start + first * params.channels]);
  var total = 0.0;
  for (var p = first; p < end; p++) {
    let at = start + p * params.channels;
    var sum = 0.0;
    for (var c = 0u; c < width; c++) { sum += f32(x[at + c]) - shift; }
    total += sum;
  }
  let mean = shift + total / f32((end - first) * width);
  var squares = 0.0;
  for (var p = first; p < end; p++) {
    let at = start + p * params.channels;
    var sum = 0.0;
    for (var c = 0u; c < width; c++) {
      let d = f32(x[at + c]) - mean;
      sum += d * d;
    }
    squares += sum;
  }
  partial[element] = vec2f(mean, squares);
}
