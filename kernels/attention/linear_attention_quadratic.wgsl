// linear attention, by pairs of pixels: out[n] = sum_m w(n, m) v[m] / (sum_m w(n, m) + eps), w(n, m) = relu(q[n]) .
// relu(k[m]), the sums over all pixels m of the image, head by head. The same numbers as the sums of
// linear_attention.wgsl give, in another order.
//
//   qkv   [batch, pixels, heads, 3, HEAD_DIM]    f32   q, k and v of a head beside each other
//   out   [batch, pixels, out_heads, HEAD_DIM]   f32   heads first_head .. first_head + heads are written
//
// For maps of no more pixels than a head has channels, where this is less work and one dispatch; for any other map a
// reference. One invocation a vec4 of out. Any adapter.
// Grid: ceil(batch * pixels * heads * HEAD_DIM / 4 / 64), folded over y beyond 32768.
// Cai et al. 2023 (EfficientViT), equation 1 with ReLU, as their code has it for small maps.
requires immediate_address_space;

const HEAD_DIM: u32 = 32;      // a multiple of 4
const QUADS: u32 = HEAD_DIM / 4;

struct Params { batch: u32, pixels: u32, heads: u32, out_heads: u32, first_head: u32, eps: f32 }

@group(0) @binding(0) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4f>;
var<immediate> params: Params;

fn relu(v: vec4f) -> vec4f { return max(v, vec4f(0)); }

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let at = (group.y * 32768 + group.x) * 64 + index;
  let quad = at % QUADS;
  let head = at / QUADS % params.heads;
  let row = at / QUADS / params.heads;
  let b = row / params.pixels;
  if (b >= params.batch) { return; }

  let line = params.heads * 3 * QUADS; // vec4s of a pixel
  let q_at = row * line + head * 3 * QUADS;
  var k_at = b * params.pixels * line + head * 3 * QUADS + QUADS;
  var q: array<vec4f, QUADS>;
  for (var e = 0u; e < QUADS; e++) { q[e] = relu(qkv[q_at + e]); }
  var values = vec4f(0);
  var weights = 0.0;
  for (var m = 0u; m < params.pixels; m++) {
    var products = vec4f(0);
    for (var e = 0u; e < QUADS; e++) { products += q[e] * relu(qkv[k_at + e]); }
    let weight = dot(products, vec4f(1));
    values += weight * qkv[k_at + QUADS + quad];
    weights += weight;
    k_at += line;
  }
  out[(row * params.out_heads + params.first_head + head) * QUADS + quad] = values / (weights + params.eps);
}
