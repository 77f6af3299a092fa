// guide: classifier-free guidance on logits, in place: conditional = unconditional + scale (conditional - unconditional).
//
//   logits [2, size]  f32   the conditional half, then the unconditional one, which stays as it is
//
// size counts Vecs. Ho and Salimans 2022; on logits: Chang et al. 2023, Muse.
// One invocation a Vec. Grid: ceil(size / 64), folded over y beyond 32768.
requires immediate_address_space;

alias Vec = vec4<f32>;  // f32: a size that is not a multiple of 4

struct Params { size: u32, scale: f32 }

@group(0) @binding(0) var<storage, read_write> logits: array<Vec>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.y * 32768 * 64 + id.x;
  if (i >= params.size) { return; }
  let unconditional = logits[params.size + i];
  logits[i] = unconditional + params.scale * (logits[i] - unconditional);
}
