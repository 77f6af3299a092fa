// attention with one wide head, first of three: scores s[b, i, j] = scale * q[b, i] . k[b, j].
//
//   q       element (b, i, c) at (b * q_len + i) * q_stride + q_offset + c     f32, as vec4s: strides, offsets and
//   k       element (b, j, c) at (b * kv_len + j) * kv_stride + k_offset + c   head_dim are multiples of 4
//   scores  [batch, q_len, ceil(kv_len / 4)]  vec4f; what is past the last key repeats it
//
// One head of many channels (512 in KL-16's middle) leaves no room in registers for a row of the output, as
// flash.wgsl and cpu.wgsl keep it. So the scores are stored, which the small maps that have such heads allow.
// An invocation makes 4 queries x 4 keys: every vec4 loaded serves four. Any adapter.
// Grid: ceil(batch * ceil(q_len / 4) * ceil(kv_len / 4) / 64), folded over y beyond 32768.
// Then wide_softmax.wgsl, wide_values.wgsl. Vaswani et al. 2017, equation 1.
requires immediate_address_space;

struct Params {
  batch: u32, q_len: u32, kv_len: u32, head_dim: u32, q_stride: u32, q_offset: u32, kv_stride: u32, k_offset: u32,
  scale: f32,
}

@group(0) @binding(0) var<storage, read> q: array<vec4f>;
@group(0) @binding(1) var<storage, read> k: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> scores: array<vec4f>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let at = (group.y * 32768 + group.x) * 64 + index;
  let key_quads = (params.kv_len + 3) / 4;
  let query_quads = (params.q_len + 3) / 4;
  let b = at / key_quads / query_quads;
  if (b >= params.batch) { return; }
  let query = at / key_quads % query_quads * 4;
  let key_quad = at % key_quads;

  let rows = b * params.q_len + min(query + vec4u(0, 1, 2, 3), vec4u(params.q_len - 1));
  let keys = b * params.kv_len + min(key_quad * 4 + vec4u(0, 1, 2, 3), vec4u(params.kv_len - 1));
  let q_at = (rows * params.q_stride + params.q_offset) / 4;
  let k_at = (keys * params.kv_stride + params.k_offset) / 4;
  var sum = mat4x4f(); // a column a query
  for (var c = 0u; c < params.head_dim / 4; c++) {
    let columns = mat4x4f(k[k_at.x + c], k[k_at.y + c], k[k_at.z + c], k[k_at.w + c]);
    sum += mat4x4f(q[q_at.x + c] * columns, q[q_at.y + c] * columns, q[q_at.z + c] * columns, q[q_at.w + c] * columns);
  }
  for (var r = 0u; r < min(4, params.q_len - query); r++) {
    scores[rows[r] * key_quads + key_quad] = params.scale * sum[r];
  }
}
