// q_sample: noisy tokens x_t = alpha_t x0 + sigma_t noise, for every row that the diffusion head is trained on.
//
//   x0     [tokens, channels]  f32
//   index  [>= offset + rows]  u32    token of each row, from index_offset on
//   t      [>= rows]           u32    diffusion time of each row
//   table  [steps]             vec4f  alpha, sigma, ... of each time
//   key    [2]                 u32    read when DRAW: key of the noise, which the host changes every step
//   noise  [rows, channels]    f32    written when DRAW, else read
//   x_t    [rows, channels]    f32
//
// With DRAW the noise of a row is that of random/normal.wgsl (Threefry-2x32-20, Box-Muller, Cephes polynomials) for
// image = its token, position = its repeat, row / rows_per_repeat, and head step 0: it does not depend on which other
// tokens are masked. One invocation a pair of channels. Grid: ceil(rows * ceil(channels / 2) / 64), folded over y
// beyond 32768. Ho et al. 2020, equation 4.
requires immediate_address_space;

override DRAW: bool = true;

struct Params { rows: u32, channels: u32, rows_per_repeat: u32, index_offset: u32 }

@group(0) @binding(0) var<storage, read> x0: array<f32>;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read> t: array<u32>;
@group(0) @binding(3) var<storage, read> table: array<vec4f>;
@group(0) @binding(4) var<storage, read> key: array<u32>;
@group(0) @binding(5) var<storage, read_write> noise: array<f32>;
@group(0) @binding(6) var<storage, read_write> x_t: array<f32>;
var<immediate> params: Params;

fn rotate_left(x: u32, bits: u32) -> u32 { return (x << bits) | (x >> (32 - bits)); }

fn threefry(key: vec2u, counter: vec2u) -> vec2u {
  let keys = vec3u(key, key.x ^ key.y ^ 0x1bd11bdau);
  let rotations = array<vec4u, 2>(vec4u(13, 15, 26, 6), vec4u(17, 29, 16, 24));
  var v = counter + key;
  for (var group = 0u; group < 5; group++) {
    for (var i = 0u; i < 4; i++) {
      v.x += v.y;
      v.y = rotate_left(v.y, rotations[group & 1][i]) ^ v.x;
    }
    v += vec2u(keys[(group + 1) % 3], keys[(group + 2) % 3] + group + 1);
  }
  return v;
}

/** Natural logarithm of a normal positive number: x = 2^e (1 + f), 1 + f in [sqrt(1/2), sqrt(2)). */
fn accurate_log(x: f32) -> f32 {
  let bits = bitcast<u32>(x) - 0x3f3504f3;
  let e = f32(bitcast<i32>(bits) >> 23);
  let f = bitcast<f32>((bits & 0x007fffff) + 0x3f3504f3) - 1;
  var p = ((7.0376836292e-2 * f - 1.1514610310e-1) * f + 1.1676998740e-1) * f - 1.2420140846e-1;
  p = ((((p * f + 1.4249322787e-1) * f - 1.6668057665e-1) * f + 2.0000714765e-1) * f - 2.4999993993e-1) * f + 3.3333331174e-1;
  let s = f * f;
  return e * 0.693359375 + (f + (e * -2.12194440e-4 - 0.5 * s + p * s * f));
}

/** Cosine and sine of a fraction of a turn. */
fn circle(turn: f32) -> vec2f {
  let quarter = round(4 * turn);
  let r = (4 * turn - quarter) * 1.5707963;
  let s = r * r;
  let sine = r + r * s * ((-1.9515295891e-4 * s + 8.3321608736e-3) * s - 1.6666654611e-1);
  let cosine = 1 - 0.5 * s + s * s * ((2.443315711809948e-5 * s - 1.388731625493765e-3) * s + 4.166664568298827e-2);
  let n = u32(quarter) & 3;
  let turned = select(vec2f(cosine, sine), vec2f(-sine, cosine), (n & 1) == 1);
  return select(turned, -turned, n >= 2);
}

/** Two standard normal numbers of a row (token, repeat). */
fn draw(token: u32, repeat: u32, pair: u32) -> vec2f {
  let row_key = threefry(vec2u(key[0], key[1]), vec2u(token, repeat));
  let bits = threefry(row_key, vec2u(0, pair));
  let u = (vec2f(bits >> vec2u(8)) + 0.5) / 16777216.0;
  return sqrt(-2 * accurate_log(u.x)) * circle(u.y);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let pairs = (params.channels + 1) / 2;
  let at = id.y * 32768 * 64 + id.x;
  if (at >= params.rows * pairs) { return; }
  let row = at / pairs;
  let pair = at % pairs;
  let token = index[params.index_offset + row];
  let scale = table[t[row]].xy;
  var drawn = vec2f(0);
  if (DRAW) { drawn = draw(token, row / params.rows_per_repeat, pair); }
  for (var i = 0u; i < 2 && 2 * pair + i < params.channels; i++) {
    let channel = 2 * pair + i;
    let out = row * params.channels + channel;
    if (DRAW) { noise[out] = drawn[i]; } else { drawn[i] = noise[out]; }
    x_t[out] = scale.x * x0[token * params.channels + channel] + scale.y * drawn[i];
  }
}
