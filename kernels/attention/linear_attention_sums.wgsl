// linear attention, first of three: what each stretch of pixels adds to the sums over all keys.
//
//   partial[b, h, s, e, d] = sum over pixels n of stretch s of relu(k[b, n, h, e]) v[b, n, h, d]   e < HEAD_DIM
//   partial[b, h, s, HEAD_DIM, e] = sum over n of relu(k[b, n, h, e])
//
//   qkv      [batch, pixels, heads, 3, HEAD_DIM]                      f32   q, k and v of a head beside each other
//   partial  [batch, heads, stretches, HEAD_DIM + 1, HEAD_DIM / 4]    vec4f
//
// A stretch is `stretch` pixels, the last one maybe fewer; `stretches` of them cover an image. Stretches depend on the
// image's size alone: an image's sums are the same in any batch. One workgroup a stretch of a head, one invocation
// 4 x 4 of its sums: two vec4s read for 16 products, the same ones for all invocations of a row or column.
// Any adapter. Grid: stretches x heads x batch. Katharopoulos et al. 2020, equation 6; Cai et al. 2023 (EfficientViT),
// equation 2: the kernel function is ReLU.
requires immediate_address_space;

const HEAD_DIM: u32 = 32;      // a multiple of 4
const QUADS: u32 = HEAD_DIM / 4;

struct Params { pixels: u32, heads: u32, stretch: u32, stretches: u32 }

@group(0) @binding(0) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> partial: array<vec4f>;
var<immediate> params: Params;

@compute @workgroup_size(QUADS, QUADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let head = group.y;
  let first = group.x * params.stretch;
  let end = min(first + params.stretch, params.pixels);
  let line = params.heads * 3 * QUADS; // vec4s of a pixel
  let start = group.z * params.pixels * line + head * 3 * QUADS + QUADS; // k of the image's first pixel

  var sums = mat4x4f(); // column e, row d
  var weights = vec4f(0);
  for (var n = first; n < end; n++) {
    let at = start + n * line;
    let k = max(qkv[at + local.y], vec4f(0));
    let v = qkv[at + QUADS + local.x];
    sums += mat4x4f(k.x * v, k.y * v, k.z * v, k.w * v);
    weights += k;
  }
  let out = ((group.z * params.heads + head) * params.stretches + group.x) * (HEAD_DIM + 1) * QUADS;
  for (var e = 0u; e < 4; e++) { partial[out + (local.y * 4 + e) * QUADS + local.x] = sums[e]; }
  if (local.x == 0) { partial[out + HEAD_DIM * QUADS + local.y] = weights; }
}
