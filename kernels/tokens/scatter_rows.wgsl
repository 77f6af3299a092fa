// scatter_rows: y[index[i], :] = x[i, :]; the row numbers are distinct.
//
//   x     [count, width] Elem
//   index [>= offset + count] u32
//   y     [*, width]     Elem  other rows are left as they are
//
// One invocation an element. Grid: ceil(count * width / 64), folded over y beyond 32768.
requires immediate_address_space;

alias Elem = f32;  // f16: storage of x, y

struct Params { count: u32, width: u32, offset: u32 }

@group(0) @binding(0) var<storage, read> x: array<Elem>;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<Elem>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let at = id.y * 32768 * 64 + id.x;
  if (at >= params.count * params.width) { return; }
  let row = index[params.offset + at / params.width];
  y[row * params.width + at % params.width] = x[at];
}
