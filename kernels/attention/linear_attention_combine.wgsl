// linear attention, second of three: sums over all pixels of an image from those of its stretches.
//
//   partial  [rows, stretches, HEAD_DIM + 1, HEAD_DIM / 4]  vec4f   of linear_attention_sums.wgsl; a row a head
//   sums     [rows, HEAD_DIM + 1, HEAD_DIM / 4]             vec4f   of an image
//
// One invocation a vec4 of the sums. Any adapter.
// Grid: ceil(rows (HEAD_DIM + 1) HEAD_DIM / 4 / 64), folded over y beyond 32768.
requires immediate_address_space;

const HEAD_DIM: u32 = 32;
const SIZE: u32 = (HEAD_DIM + 1) * HEAD_DIM / 4;

struct Params { rows: u32, stretches: u32 }

@group(0) @binding(0) var<storage, read> partial: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> sums: array<vec4f>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let element = id.y * 32768 * 64 + id.x;
  if (element >= params.rows * SIZE) { return; }
  let start = element / SIZE * params.stretches * SIZE + element % SIZE;
  var sum = vec4f(0);
  for (var s = 0u; s < params.stretches; s++) { sum += partial[start + s * SIZE]; }
  sums[element] = sum;
}
