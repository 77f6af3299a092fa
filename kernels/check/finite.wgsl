// finite: records the lowest id of a tensor that holds a NaN or an infinity. Looks at the bits, since a compiler
// may assume that floats are finite.
//
//   words  [count]  u32   float bits; with `half` two f16 a word
//   first  [1]      u32   the lowest id so far
//
// Invocations stride over the words. Grid: at most 1024 workgroups.
requires immediate_address_space;

struct Params { count: u32, half: u32, id: u32 }

@group(0) @binding(0) var<storage, read> words: array<u32>;
@group(0) @binding(1) var<storage, read_write> first: atomic<u32>;
var<immediate> params: Params;

fn is_bad(word: u32) -> bool {
  if (params.half == 0) { return (word & 0x7f800000) == 0x7f800000; }
  return (word & 0x7c00) == 0x7c00 || (word & 0x7c000000) == 0x7c000000;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  for (var i = id.x; i < params.count; i += groups.x * 64) {
    if (is_bad(words[i])) { atomicMin(&first, params.id); }
  }
}
