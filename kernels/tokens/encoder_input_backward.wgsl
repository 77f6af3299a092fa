// encoder_input backward, gradients of the class embeddings and of the tokens; that of the positions:
// position_backward.wgsl.
//
//   d_classes[b, :] = sum over j < buffer of d_y[b, j, :]        d_tokens[b, i, :] = d_y[b, buffer + i, :]
//
//   d_y       [batch, buffer + visible, width] f32
//   d_classes [batch, width]                   f32   written
//   d_tokens  [batch * visible, width]         f32   written
//
// width is counted in Vecs. One invocation a Vec of d_classes or d_tokens.
// Grid: ceil(batch * (1 + visible) * width / 64), folded over y beyond 32768.
requires immediate_address_space;

alias Vec = vec4<f32>;                // f32: a width that is not a multiple of 4

struct Params { batch: u32, buffer: u32, visible: u32, width: u32 }

@group(0) @binding(0) var<storage, read> d_y: array<Vec>;
@group(0) @binding(1) var<storage, read_write> d_classes: array<Vec>;
@group(0) @binding(2) var<storage, read_write> d_tokens: array<Vec>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let at = id.y * 32768 * 64 + id.x;
  let classes = params.batch * params.width;
  if (at >= classes * (1 + params.visible)) { return; }
  let column = at % params.width;
  let length = params.buffer + params.visible;
  // The sums first: they take longest.
  if (at < classes) {
    let first = at / params.width * length * params.width + column;
    var sum = Vec(0);
    for (var j = 0u; j < params.buffer; j++) { sum += d_y[first + j * params.width]; }
    d_classes[at] = sum;
  } else {
    let token = (at - classes) / params.width;
    let row = token / params.visible * length + params.buffer + token % params.visible;
    d_tokens[at - classes] = d_y[row * params.width + column];
  }
}
