// encoder_input: the encoder's sequence before its first norm: `buffer` slots that all hold the class embedding (or
// the unconditional input), then the visible tokens; each plus its position embedding.
//
//   classes  [batch, width]            f32
//   tokens   [batch * visible, width]  f32   projected visible tokens, row after row of the batch
//   index    [>= offset + batch * visible] u32   position in the grid of each visible token
//   position [buffer + grid, width]    f32
//   y        [batch, buffer + visible, width] f32
//
// One invocation an element. Grid: ceil(batch * (buffer + visible) * width / 64), folded over y beyond 32768.
// eMIGM section 3.1 (MAE); Li et al. 2024 (MAR), whose buffer slots these are.
requires immediate_address_space;

struct Params { batch: u32, buffer: u32, visible: u32, width: u32, offset: u32 }

@group(0) @binding(0) var<storage, read> classes: array<f32>;
@group(0) @binding(1) var<storage, read> tokens: array<f32>;
@group(0) @binding(2) var<storage, read> index: array<u32>;
@group(0) @binding(3) var<storage, read> position: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let at = id.y * 32768 * 64 + id.x;
  let length = params.buffer + params.visible;
  if (at >= params.batch * length * params.width) { return; }
  let column = at % params.width;
  let row = at / params.width;
  let b = row / length;
  let j = row % length;

  if (j < params.buffer) {
    y[at] = classes[b * params.width + column] + position[j * params.width + column];
  } else {
    let token = b * params.visible + j - params.buffer;
    let place = params.buffer + index[params.offset + token];
    y[at] = tokens[token * params.width + column] + position[place * params.width + column];
  }
}
