// total: the loss of all rows, sum over the rows of weight * (sum of the row's terms), as one number.
//
//   terms    [rows, columns]  f32
//   weights  [>= rows]        f32
//   loss     [1]              f32   written, added to when ACCUMULATE
//
// One workgroup: invocation i sums the rows i, i + LANES, ..., then halves are added to halves, always in that order.
// Workgroup memory: 4 LANES bytes. Grid: 1.
requires immediate_address_space;

const LANES: u32 = 256;
override ACCUMULATE: bool = false;

struct Params { rows: u32, columns: u32 }

@group(0) @binding(0) var<storage, read> terms: array<f32>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read_write> loss: array<f32>;
var<immediate> params: Params;

var<workgroup> partial: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
  var sum = 0.0;
  for (var row = lane; row < params.rows; row += LANES) {
    var row_loss = 0.0;
    for (var c = 0u; c < params.columns; c++) { row_loss += terms[row * params.columns + c]; }
    sum += weights[row] * row_loss;
  }
  partial[lane] = sum;
  for (var half = LANES / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane < half) { partial[lane] += partial[lane + half]; }
  }
  if (lane > 0) { return; }
  sum = partial[0];
  if (ACCUMULATE) { sum += loss[0]; }
  loss[0] = sum;
}
