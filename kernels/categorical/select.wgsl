// select: reveals the `count` most confident of the `masked` candidates of each image.
//
//   confidence [>= offset + batch * masked]  f32
//   sampled    [>= offset + batch * masked]  u32   code of each candidate
//   positions  [>= offset + batch * masked]  u32   its token in `codes`, image after image
//   codes      [batch * seq_len]             u32   in place: the code of each token that is revealed
//   chosen     [batch, count]                u32   the tokens that are revealed, the most confident first
//
// A candidate is revealed when fewer than `count` of its image's come before it: those with more confidence, or with the
// same and earlier in the list. Confidences are ordered as integers, NaN beyond the infinities, so that exactly `count`
// are revealed whatever they hold. One invocation a candidate, which counts; lists are short (1024 at most).
// Grid: ceil(batch * masked / 64), folded over y beyond 32768. Chang et al. 2022, MaskGIT.
requires immediate_address_space;

struct Params { batch: u32, masked: u32, count: u32, offset: u32 }

@group(0) @binding(0) var<storage, read> confidence: array<f32>;
@group(0) @binding(1) var<storage, read> sampled: array<u32>;
@group(0) @binding(2) var<storage, read> positions: array<u32>;
@group(0) @binding(3) var<storage, read_write> codes: array<u32>;
@group(0) @binding(4) var<storage, read_write> chosen: array<u32>;
var<immediate> params: Params;

/** A number that is larger for a larger float. */
fn key(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  return bits ^ select(0x80000000u, 0xffffffffu, bits >= 0x80000000u);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.y * 32768 * 64 + id.x;
  if (i >= params.batch * params.masked) { return; }
  let image = i / params.masked;
  let start = params.offset + image * params.masked;
  let at = params.offset + i;
  let mine = key(confidence[at]);
  var before = 0u;
  for (var j = start; j < start + params.masked; j++) {
    let other = key(confidence[j]);
    before += select(0u, 1u, other > mine || (other == mine && j < at));
  }
  if (before >= params.count) { return; }
  codes[positions[at]] = sampled[at];
  chosen[image * params.count + before] = positions[at];
}
