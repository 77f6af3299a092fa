// finite: notes which tensor was the first to hold a NaN or an infinity. Looks at the bits, since a compiler may
// assume that floats are finite.
//
//   words  [count]  u32   float bits; with `half` ceil(count / 2) words of two f16
//   first  [1]      u32   the id of the first bad tensor, NONE as long as there is none
//
// Runs after the dispatch that wrote the tensor; all invocations of a run store the same id, so none can be lost.
// Invocations stride over the words. Grid: at most 1024 workgroups.
requires immediate_address_space;

const NONE: u32 = 0xffffffff;

struct Params { count: u32, half: u32, id: u32 }

@group(0) @binding(0) var<storage, read> words: array<u32>;
@group(0) @binding(1) var<storage, read_write> first: atomic<u32>;
var<immediate> params: Params;

fn is_bad(i: u32) -> bool {
  let word = words[i];
  if (params.half == 0) { return (word & 0x7f800000) == 0x7f800000; }
  // Of an odd count the last half word is not part of the tensor.
  let high = 2 * i + 1 < params.count && (word & 0x7c000000) == 0x7c000000;
  return high || (word & 0x7c00) == 0x7c00;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let size = select(params.count, (params.count + 1) / 2, params.half == 1);
  for (var i = id.x; i < size; i += groups.x * 64) {
    if (is_bad(i) && atomicLoad(&first) == NONE) { atomicStore(&first, params.id); }
  }
}
