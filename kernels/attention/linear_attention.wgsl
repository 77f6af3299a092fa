// linear attention, last of three: out[b, n, h, d] = sum_e relu(q[e]) S[e, d] / (sum_e relu(q[e]) S[HEAD_DIM, e] + eps)
//
//   qkv   [batch, pixels, heads, 3, HEAD_DIM]          f32    q, k and v of a head beside each other
//   sums  [batch, heads, HEAD_DIM + 1, HEAD_DIM / 4]   vec4f  S of linear_attention_combine.wgsl
//   out   [batch, pixels, out_heads, HEAD_DIM]         f32    heads first_head .. first_head + heads are written
//
// An invocation makes 4 pixels x 4 channels of a head; neighbours the same pixels and neighbouring channels.
// Any adapter. Grid: ceil(batch * ceil(pixels / 4) * heads * HEAD_DIM / 4 / 64), folded over y beyond 32768.
// Katharopoulos et al. 2020, equation 6; Cai et al. 2023 (EfficientViT), equation 2.
requires immediate_address_space;

const HEAD_DIM: u32 = 32;      // a multiple of 4
const QUADS: u32 = HEAD_DIM / 4;

struct Params { batch: u32, pixels: u32, heads: u32, out_heads: u32, first_head: u32, eps: f32 }

@group(0) @binding(0) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(1) var<storage, read> sums: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
var<immediate> params: Params;

fn relu(v: vec4f) -> vec4f { return max(v, vec4f(0)); }

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let at = (group.y * 32768 + group.x) * 64 + index;
  let pixel_quads = (params.pixels + 3) / 4;
  let quad = at % QUADS;
  let head = at / QUADS % params.heads;
  let b = at / QUADS / params.heads / pixel_quads;
  if (b >= params.batch) { return; }
  let pixel = at / QUADS / params.heads % pixel_quads * 4;

  // Pixels past the end repeat the last one and are not written.
  let rows = b * params.pixels + min(pixel + vec4u(0, 1, 2, 3), vec4u(params.pixels - 1));
  let q_at = (rows * params.heads + head) * 3 * QUADS;
  let s_at = (b * params.heads + head) * (HEAD_DIM + 1) * QUADS;
  var values = mat4x4f(); // a column a pixel
  var weights = vec4f(0);
  for (var e = 0u; e < QUADS; e++) {
    let q = mat4x4f(relu(qkv[q_at.x + e]), relu(qkv[q_at.y + e]), relu(qkv[q_at.z + e]), relu(qkv[q_at.w + e]));
    let s = s_at + e * 4 * QUADS + quad;
    values += mat4x4f(sums[s], sums[s + QUADS], sums[s + 2 * QUADS], sums[s + 3 * QUADS]) * q;
    weights += sums[s_at + HEAD_DIM * QUADS + e] * q;
  }
  let out_at = (rows * params.out_heads + params.first_head + head) * QUADS + quad;
  for (var r = 0u; r < min(4, params.pixels - pixel); r++) { out[out_at[r]] = values[r] / (weights[r] + params.eps); }
}
