// sum_squares: partial sums of the squares of x, one for each SPAN Vecs.
//
//   x        [size]  vec4f
//   partial  [>= partial_offset + ceil(size / SPAN)]  f32
//
// size is counted in Vecs. A workgroup sums SPAN consecutive Vecs: invocation i takes i, i + LANES, ...; then halves
// are added to halves. GPUs: LANES = 256 as it stands. CPU drivers: LANES = the subgroup size.
// Workgroup memory: 4 LANES bytes. Grid: ceil(size / SPAN), folded over y beyond 32768.
requires immediate_address_space;

const LANES: u32 = 256;
const SPAN: u32 = 4096;

struct Params { size: u32, partial_offset: u32 }

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> partial: array<f32>;
var<immediate> params: Params;

var<workgroup> sums: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let part = group.y * 32768 + group.x;
  if (part * SPAN >= params.size) { return; }
  let end = min((part + 1) * SPAN, params.size);
  var sum = vec4f(0);
  for (var i = part * SPAN + lane; i < end; i += LANES) { sum += x[i] * x[i]; }
  sums[lane] = dot(sum, vec4f(1));
  for (var half = LANES / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane < half) { sums[lane] += sums[lane + half]; }
  }
  if (lane == 0) { partial[params.partial_offset + part] = sums[0]; }
}
