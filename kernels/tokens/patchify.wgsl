// patchify: image to tokens, or back with INVERSE; times scale.
//
//   image  [batch, channels, side * patch, side * patch]   f32
//   tokens [batch, side * side, channels * patch * patch]  f32   order c, p, q within a token
//   y      the other one
//
// One invocation an element of y. Grid: ceil(size / 64), folded over y beyond 32768.
requires immediate_address_space;

override INVERSE: bool = false;

struct Params { size: u32, channels: u32, side: u32, patch_size: u32, scale: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let at = id.y * 32768 * 64 + id.x;
  if (at >= params.size) { return; }
  let p = params.patch_size;
  let side = params.side;
  // The element's place in the image: batch b, channel c, cell (row, column), pixel (i, j) in the cell.
  var b: u32; var c: u32; var row: u32; var column: u32; var i: u32; var j: u32;
  if (INVERSE) {
    let x0 = at % (side * p);
    let y0 = at / (side * p) % (side * p);
    let plane = at / (side * p * side * p);
    b = plane / params.channels;
    c = plane % params.channels;
    row = y0 / p; i = y0 % p;
    column = x0 / p; j = x0 % p;
  } else {
    j = at % p;
    i = at / p % p;
    c = at / (p * p) % params.channels;
    let cell = at / (p * p * params.channels);
    column = cell % side;
    row = cell / side % side;
    b = cell / (side * side);
  }
  let in_image = ((b * params.channels + c) * side * p + row * p + i) * side * p + column * p + j;
  let in_tokens = ((b * side * side + row * side + column) * params.channels + c) * p * p + i * p + j;
  y[at] = x[select(in_image, in_tokens, INVERSE)] * params.scale;
}
