// norm: the L2 norm from partial sums of squares, sqrt(sum of partial).
//
//   partial  [size]  f32   by sum_squares.wgsl
//   norm     [1]     f32
//
// One workgroup: invocation i sums i, i + LANES, ...; then halves are added to halves.
// Workgroup memory: 4 LANES bytes. Grid: 1.
requires immediate_address_space;

const LANES: u32 = 256;

struct Params { size: u32 }

@group(0) @binding(0) var<storage, read> partial: array<f32>;
@group(0) @binding(1) var<storage, read_write> norm: array<f32>;
var<immediate> params: Params;

var<workgroup> sums: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
  var sum = 0.0;
  for (var i = lane; i < params.size; i += LANES) { sum += partial[i]; }
  sums[lane] = sum;
  for (var half = LANES / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane < half) { sums[lane] += sums[lane + half]; }
  }
  if (lane == 0) { norm[0] = sqrt(sums[0]); }
}
