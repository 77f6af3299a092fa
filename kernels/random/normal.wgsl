// normal: standard normal noise that depends on (seed, stream, step, image, position, head step, channel) alone.
//
//   rows [>= offset + count] vec2u   image index and grid position of each row
//   y    [count (or 2 count), channels]  f32   written twice with COPY (guidance evaluates the same point twice)
//
// Threefry-2x32-20 (Salmon et al. 2011): row key = threefry(key, (image, position)), bits = threefry(row key,
// (head step, pair)); key comes from the host. Box-Muller on (u1, u2), u = (bits >> 8 + 0.5) / 2^24: channel
// 2 pair is r cos, 2 pair + 1 is r sin. WGSL's log and cos may be off by 2^-11 and are, on some drivers: the
// polynomials here (Cephes logf, sinf, cosf) make the same noise everywhere to a few units in the last place.
// One invocation a pair. Grid: ceil(count * ceil(channels / 2) / 64), folded over y beyond 32768.
requires immediate_address_space;

override COPY: bool = false;

struct Params { key_low: u32, key_high: u32, count: u32, channels: u32, head_step: u32, offset: u32 }

@group(0) @binding(0) var<storage, read> rows: array<vec2u>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
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

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let element = id.y * 32768 * 64 + id.x;
  let pairs = (params.channels + 1) / 2;
  if (element >= params.count * pairs) { return; }
  let row = element / pairs;
  let pair = element % pairs;
  let key = threefry(vec2u(params.key_low, params.key_high), rows[params.offset + row]);
  let bits = threefry(key, vec2u(params.head_step, pair));
  let u = (vec2f(bits >> vec2u(8)) + 0.5) / 16777216.0;
  let value = sqrt(-2 * accurate_log(u.x)) * circle(u.y);
  let at = row * params.channels + 2 * pair;
  let size = params.count * params.channels;
  for (var i = 0u; i < 2 && 2 * pair + i < params.channels; i++) {
    y[at + i] = value[i];
    if (COPY) { y[at + i + size] = value[i]; }
  }
}
