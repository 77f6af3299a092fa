// attention with one wide head, last of three: out[b, i, c] = sum_j p[b, i, j] v[b, j, c].
//
//   p    [batch, q_len, ceil(kv_len / 4)]  vec4f   of wide_softmax.wgsl, zero past the last key
//   v    element (b, j, c) at (b * kv_len + j) * kv_stride + v_offset + c   f32, as vec4s: strides, offsets and
//   out  [batch, q_len, head_dim]          f32                              head_dim are multiples of 4
//
// An invocation makes 4 queries x 4 channels: every vec4 loaded serves four. Any adapter.
// Grid: ceil(batch * ceil(q_len / 4) * head_dim / 4 / 64), folded over y beyond 32768.
requires immediate_address_space;

struct Params { batch: u32, q_len: u32, kv_len: u32, head_dim: u32, kv_stride: u32, v_offset: u32 }

@group(0) @binding(0) var<storage, read> p: array<vec4f>;
@group(0) @binding(1) var<storage, read> v: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let at = (group.y * 32768 + group.x) * 64 + index;
  let key_quads = (params.kv_len + 3) / 4;
  let query_quads = (params.q_len + 3) / 4;
  let quads = params.head_dim / 4;
  let b = at / quads / query_quads;
  if (b >= params.batch) { return; }
  let query = at / quads % query_quads * 4;
  let quad = at % quads;

  let rows = b * params.q_len + min(query + vec4u(0, 1, 2, 3), vec4u(params.q_len - 1));
  let last = params.kv_len - 1;
  var sum = mat4x4f(); // a column a query
  for (var j = 0u; j < key_quads; j++) {
    let keys = b * params.kv_len + min(j * 4 + vec4u(0, 1, 2, 3), vec4u(last));
    let v_at = (keys * params.kv_stride + params.v_offset) / 4 + quad;
    let values = mat4x4f(v[v_at.x], v[v_at.y], v[v_at.z], v[v_at.w]);
    let shares = mat4x4f(
      p[rows.x * key_quads + j], p[rows.y * key_quads + j], p[rows.z * key_quads + j], p[rows.w * key_quads + j]);
    sum += values * shares;
  }
  for (var r = 0u; r < min(4, params.q_len - query); r++) { out[rows[r] * quads + quad] = sum[r]; }
}
