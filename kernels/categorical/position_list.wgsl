// position_list: row numbers of the masked or the visible tokens of each image, from the codes known so far: what the
// host would list, where the device has chosen the tokens. Their number is the host's, so nothing is read back.
//
//   codes [batch, seq_len]  u32   0xffffffff where masked
//   list  [>= ...]          u32   written from `offset` on
//
// list[image * count + rank] = image * stride + shift + position, ranks in order of position, for the tokens that are
// masked (MASKED_TOKENS) or visible. With SLOTS a number for every token instead, list[image * seq_len + position] =
// shift + rank among the visible, 0xffffffff where masked: the encoder's row of each position.
// One invocation a token, which counts those before it. Grid: ceil(batch * seq_len / 64), folded over y beyond 32768.
requires immediate_address_space;

const MASKED: u32 = 0xffffffff;
override MASKED_TOKENS: bool = false;
override SLOTS: bool = false;

struct Params { batch: u32, seq_len: u32, count: u32, stride: u32, shift: u32, offset: u32 }

@group(0) @binding(0) var<storage, read> codes: array<u32>;
@group(0) @binding(1) var<storage, read_write> list: array<u32>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.y * 32768 * 64 + id.x;
  if (i >= params.batch * params.seq_len) { return; }
  let image = i / params.seq_len;
  let position = i % params.seq_len;
  let listed = (codes[i] == MASKED) == MASKED_TOKENS;
  if (SLOTS && !listed) { list[params.offset + i] = MASKED; }
  if (!listed) { return; }
  var rank = 0u;
  for (var j = i - position; j < i; j++) {
    rank += select(0u, 1u, (codes[j] == MASKED) == MASKED_TOKENS);
  }
  if (SLOTS) {
    list[params.offset + i] = params.shift + rank;
  } else if (rank < params.count) {
    list[params.offset + image * params.count + rank] = image * params.stride + params.shift + position;
  }
}
