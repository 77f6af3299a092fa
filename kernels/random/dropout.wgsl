// dropout: y = x keep / (1 - probability), or residual + that with ADD; the gradient of x from that of y is the same
// function of the same keys, so no mask is stored.
//
//   x, residual, y  [size]           f32
//   keys            [>= row + 1, 2]  u32   one row for each place of the network; the host changes them every step
//
// Element i is kept when its 32 random bits are not below `threshold` = probability * 2^32; `scale` is
// 1 / (1 - threshold / 2^32). Bits: the counter i, offset by the key's first word, through triple32 (C. Wellons,
// "Prospecting for Hash Functions", 2018: three multiplications, the least avalanche bias known of that form); the
// key's second word enters before the first of them, so that two keys never give shifted copies of one sequence.
// Srivastava et al. 2014. The attention kernels drop their weights by the same `random_bits`.
// size is counted in Vecs. One invocation a Vec. Grid: ceil(size / 64), folded over y beyond 32768.
requires immediate_address_space;

alias Vec = vec4<f32>;                // f32: a size that is not a multiple of 4, with the three below
alias Bits = vec4<u32>;               // u32
const PER: u32 = 4;                   // 1
const STEPS = vec4<u32>(0, 1, 2, 3);  // 0u
override ADD: bool = false;

struct Params { size: u32, row: u32, threshold: u32, scale: f32 }

@group(0) @binding(0) var<storage, read> x: array<Vec>;
@group(0) @binding(1) var<storage, read> residual: array<Vec>;
@group(0) @binding(2) var<storage, read> keys: array<vec2u>;
@group(0) @binding(3) var<storage, read_write> y: array<Vec>;
var<immediate> params: Params;

fn random_bits(key: vec2u, counter: Bits) -> Bits {
  var v = counter + key.x;
  v = ((v ^ (v >> Bits(17))) + key.y) * 0xed5ad4bb;
  v = (v ^ (v >> Bits(11))) * 0xac4c1b51;
  v = (v ^ (v >> Bits(15))) * 0x31848bab;
  return v ^ (v >> Bits(14));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.y * 32768 * 64 + id.x;
  if (i >= params.size) { return; }
  let bits = random_bits(keys[params.row], i * PER + STEPS);
  var value = select(Vec(0), x[i] * params.scale, bits >= Bits(params.threshold));
  if (ADD) { value += residual[i]; }
  y[i] = value;
}
