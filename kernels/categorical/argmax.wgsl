// argmax: the column of the largest number of each row, the first of equals.
//
//   x     [rows, width]  f32
//   index [rows]         u32   0 where all are NaN
//
// One invocation a row. Grid: ceil(rows / 64), folded over y beyond 32768.
requires immediate_address_space;

struct Params { rows: u32, width: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> index: array<u32>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.y * 32768 * 64 + id.x;
  if (row >= params.rows) { return; }
  let start = row * params.width;
  var best = 0u;
  var most = x[start];
  for (var i = 1u; i < params.width; i++) {
    let value = x[start + i];
    if (value > most || most != most) {
      best = i;
      most = value;
    }
  }
  index[row] = select(best, 0u, most != most);
}
