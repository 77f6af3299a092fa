// sample: a code for every row by the Gumbel-max trick, and how confident the network is of it.
//
//   logits     [rows, codes]             f32
//   threshold  [rows]                    f32    with FILTER: codes with smaller logits are never drawn
//   positions  [>= offset + rows]        u32    token of each row: image in the batch * seq_len + grid position
//   images     [batch]                   u32    index of each image of the batch, for the noise
//   sampled    [>= offset + rows]        u32    argmax of logits + temperature gumbel; the first of equals
//   confidence [>= offset + rows]        f32    log softmax(logits)[sampled] + choice_temperature gumbel'
//
// softmax(logits / temperature) is what is drawn from; temperature 0 takes the largest logit. The confidence is that of
// the network's own distribution, whatever the temperature and the filter. One pass over the row.
//
// Noise: Threefry-2x32-20 (Salmon et al. 2011), row key = threefry(key, (image, position)); the words of
// threefry(row key, (0, pair)) are for the codes 2 pair and 2 pair + 1, the first of (1, 0) for the confidence:
// a row's numbers do not depend on the batch. A word w stands for u = (w + 0.5) / 2^32, gumbel = -log(-log(1 - u)), so
// that large noise, which decides, is fine-grained.
//
// One invocation a row. Grid: ceil(rows / LANES), folded over y beyond 32768.
// For: reading and checking, and for CPU drivers, whose lanes then take a row each. Sibling: sample.wgsl (GPUs).
// Gumbel 1954; Chang et al. 2022, MaskGIT (confidence). Polynomials: Cephes (see random/normal.wgsl).
requires immediate_address_space;

const LANES: u32 = 64;  // a CPU driver's subgroup size
const LOWEST = -3.0e38;
override FILTER: bool = false;

struct Params {
  rows: u32, codes: u32, seq_len: u32, offset: u32,
  key_low: u32, key_high: u32, temperature: f32, choice_temperature: f32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> threshold: array<f32>;
@group(0) @binding(2) var<storage, read> positions: array<u32>;
@group(0) @binding(3) var<storage, read> images: array<u32>;
@group(0) @binding(4) var<storage, read_write> sampled: array<u32>;
@group(0) @binding(5) var<storage, read_write> confidence: array<f32>;
var<immediate> params: Params;

/** What is known of the row so far: the best code, its score and logit; the largest logit, the exponentials' sum. */
struct Part { score: f32, code: u32, logit: f32, most: f32, exponentials: f32 }

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

/** log(2^e (1 + f)) for f in [sqrt(1/2) - 1, sqrt(2) - 1]. */
fn log_parts(e: f32, f: f32) -> f32 {
  var p = ((7.0376836292e-2 * f - 1.1514610310e-1) * f + 1.1676998740e-1) * f - 1.2420140846e-1;
  p = ((((p * f + 1.4249322787e-1) * f - 1.6668057665e-1) * f + 2.0000714765e-1) * f - 2.4999993993e-1) * f + 3.3333331174e-1;
  let s = f * f;
  return e * 0.693359375 + (f + (e * -2.12194440e-4 - 0.5 * s + p * s * f));
}

/** Natural logarithm of a normal positive number. */
fn accurate_log(x: f32) -> f32 {
  let bits = bitcast<u32>(x) - 0x3f3504f3;
  return log_parts(f32(bitcast<i32>(bits) >> 23), bitcast<f32>((bits & 0x007fffff) + 0x3f3504f3) - 1);
}

fn gumbel(word: u32) -> f32 {
  let u = (f32(word) + 0.5) * 2.3283064365386963e-10;
  let rest = (f32(~word) + 0.5) * 2.3283064365386963e-10;
  return -accurate_log(-select(accurate_log(rest), log_parts(0, -u), u < 0.25));
}

/** The part with one more code. */
fn with_code(part: Part, code: u32, logit: f32, smallest: f32, word: u32) -> Part {
  var next = part;
  next.most = max(part.most, logit);
  next.exponentials = part.exponentials * exp(part.most - next.most) + exp(logit - next.most);
  var score = logit;
  if (params.temperature > 0) { score += params.temperature * gumbel(word); }
  if (score > part.score && (!FILTER || logit >= smallest)) {
    next.score = score;
    next.code = code;
    next.logit = logit;
  }
  return next;
}

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.y * 32768 * LANES + id.x;
  if (row >= params.rows) { return; }
  let start = row * params.codes;
  let at = params.offset + row;
  let token = positions[at];
  let counter = vec2u(images[token / params.seq_len], token % params.seq_len);
  let row_key = threefry(vec2u(params.key_low, params.key_high), counter);
  var smallest = LOWEST;
  if (FILTER) { smallest = threshold[row]; }

  var part = Part(LOWEST, 0, LOWEST, LOWEST, 0);
  for (var pair = 0u; pair < (params.codes + 1) / 2; pair++) {
    let words = threefry(row_key, vec2u(0, pair));
    part = with_code(part, 2 * pair, logits[start + 2 * pair], smallest, words.x);
    if (2 * pair + 1 < params.codes) {
      part = with_code(part, 2 * pair + 1, logits[start + 2 * pair + 1], smallest, words.y);
    }
  }

  sampled[at] = part.code;
  var sure = part.logit - part.most - accurate_log(part.exponentials);
  if (params.choice_temperature > 0) { sure += params.choice_temperature * gumbel(threefry(row_key, vec2u(1, 0)).x); }
  confidence[at] = sure;
}
