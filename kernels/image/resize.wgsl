// resize: 8-bit images to another size as TensorFlow 1 resizes them, and to numbers around zero.
//
//   y(b, p, q, c) = scale (bilinear(x, p height / out_height, q width / out_width, c) - mean),  0 for c = 3
//
//   x  [batch, height, width, 3]           bytes, four a word, the first in the low bits
//   y  [batch, out_height, out_width, 4]   f32; the fourth channel is there for the convolution that follows
//
// Pixel 0 lies on pixel 0 (no half-pixel centres), nothing is averaged when an image shrinks, and past the last row or
// column the last one stands. Positions are float32 products, as there (ResizeBilinear with align_corners false and
// half_pixel_centers false): row_scale = height / out_height, column_scale = width / out_width.
// Any adapter. One invocation a pixel of y. Grid: ceil(pixels / 64), folded over y beyond 32768.
requires immediate_address_space;

struct Params {
  batch: u32, height: u32, width: u32, out_height: u32, out_width: u32,
  row_scale: f32, column_scale: f32, mean: f32, scale: f32,
}

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;
var<immediate> params: Params;

fn pixel(at: u32) -> vec3f {
  var value: vec3f;
  for (var c = 0u; c < 3; c++) {
    let byte = 3 * at + c;
    value[c] = f32(extractBits(x[byte / 4], 8 * (byte % 4), 8));
  }
  return value;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let at = (group.y * 32768 + group.x) * 64 + index;
  let row = at / params.out_width;
  let b = row / params.out_height;
  if (b >= params.batch) { return; }
  let position = vec2f(f32(row % params.out_height) * params.row_scale, f32(at % params.out_width) * params.column_scale);
  let last = vec2u(params.height, params.width) - 1;
  let low = min(vec2u(position), last);
  let high = min(low + 1, last);
  let share = position - vec2f(low);

  let image = b * params.height;
  let top = (image + low.x) * params.width;
  let bottom = (image + high.x) * params.width;
  let above = mix_exactly(pixel(top + low.y), pixel(top + high.y), share.y);
  let below = mix_exactly(pixel(bottom + low.y), pixel(bottom + high.y), share.y);
  y[at] = vec4f((mix_exactly(above, below, share.x) - params.mean) * params.scale, 0.0);
}

// Not WGSL's mix, which may be a (1 - t) + b t: equal pixels have to give that pixel.
fn mix_exactly(a: vec3f, b: vec3f, t: f32) -> vec3f { return a + (b - a) * t; }
