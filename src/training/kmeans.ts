/** k-means in float64: first codes by k-means++ (Arthur and Vassilvitskii, SODA 2007), exact nearest codes, means. */
import { EmigmError } from '../errors.ts';
import { CounterRandom, STREAMS } from '../random.ts';

/** Squared distance of two rows of `width` numbers. */
export function squaredDistance(a: Float32Array, atA: number, b: Float32Array, atB: number, width: number): number {
  let sum = 0;
  for (let j = 0; j < width; j++) {
    const difference = a[atA + j] - b[atB + j];
    sum += difference * difference;
  }
  return sum;
}

/**
 * `size` different rows of points[n, width]: the first uniformly, each next with a probability in proportion to its
 * squared distance from the nearest so far. Distances that the triangle inequality rules out are not computed (Elkan
 * 2003): a new row at twice a point's distance from the point's nearest, or farther, cannot be nearer.
 * @param check called for every row; throws to stop
 * @returns the rows as seeds[size, width], and the number of the nearest of them for each point
 * @throws EmigmError 'input' when fewer than `size` points differ
 */
export function plusPlusSeeds(
  points: Float32Array,
  width: number,
  size: number,
  seed: number | bigint,
  check: () => void = () => {},
): { seeds: Float32Array<ArrayBuffer>; nearest: Uint32Array<ArrayBuffer> } {
  const count = points.length / width;
  const random = new CounterRandom(seed, STREAMS.codebook);
  const seeds = new Float32Array(size * width);
  const distances = new Float64Array(count).fill(Number.POSITIVE_INFINITY);
  const nearest = new Uint32Array(count);
  const between = new Float64Array(size);
  let total = 0;
  for (let k = 0; k < size; k++) {
    check();
    if (count === 0 || (k > 0 && total === 0)) {
      throw new EmigmError(
        'input',
        `only ${k} patches differ, ${size} codes are wanted; ask for ${Math.max(1, k)} at most`,
      );
    }
    const chosen = k === 0 ? random.integer(count, 0) : pick(distances, total * random.uniform(k));
    seeds.set(points.subarray(chosen * width, (chosen + 1) * width), k * width);
    for (let j = 0; j < k; j++) between[j] = squaredDistance(seeds, j * width, seeds, k * width, width);
    total = 0;
    for (let i = 0; i < count; i++) {
      if (k === 0 || between[nearest[i]] < 4 * distances[i]) {
        const distance = squaredDistance(points, i * width, seeds, k * width, width);
        if (distance < distances[i]) {
          distances[i] = distance;
          nearest[i] = k;
        }
      }
      total += distances[i];
    }
  }
  return { seeds, nearest };
}

/** The first point at which the distances so far exceed `share`; the last with a distance if rounding leaves none. */
function pick(distances: Float64Array, share: number): number {
  let [sum, last] = [0, 0];
  for (let i = 0; i < distances.length; i++) {
    if (distances[i] === 0) continue;
    sum += distances[i];
    last = i;
    if (sum > share) return i;
  }
  return last;
}

/**
 * Moves each of points[n, width] from the code it is assigned to to the nearest of codes[k, width], in place. Exact; codes
 * are tried from the nearest to the point's own, until the triangle inequality says that no other can be nearer (Elkan
 * 2003): where points and codes lie in clusters that is a few of them. Of equal codes it keeps the first tried.
 * @param check called now and then; throws to stop
 */
export function reassign(
  points: Float32Array,
  codes: Float32Array,
  assigned: Uint32Array,
  width: number,
  check: () => void = () => {},
): void {
  const size = codes.length / width;
  const { order, starts } = groups(assigned, size);
  const apart = new Float64Array(size);
  const others = new Uint32Array(size);
  for (let own = 0; own < size; own++) {
    if (starts[own] === starts[own + 1]) continue;
    check();
    for (let k = 0; k < size; k++) apart[k] = Math.sqrt(squaredDistance(codes, own * width, codes, k * width, width));
    for (let k = 0; k < size; k++) others[k] = k;
    others.sort((a, b) => apart[a] - apart[b]);
    for (let g = starts[own]; g < starts[own + 1]; g++) {
      const at = order[g] * width;
      let best = own;
      let smallest = squaredDistance(points, at, codes, own * width, width);
      const fromOwn = Math.sqrt(smallest);
      // |x - c| >= |own - c| - |x - own|, with room for rounding.
      let reach = 2 * fromOwn * (1 + 1e-12);
      for (const other of others) {
        if (apart[other] > reach) break;
        if (other === own) continue;
        const distance = squaredDistance(points, at, codes, other * width, width);
        if (distance >= smallest) continue;
        [best, smallest] = [other, distance];
        reach = (fromOwn + Math.sqrt(smallest)) * (1 + 1e-12);
      }
      assigned[order[g]] = best;
    }
  }
}

/** Points in order of their codes, and where each code's begin. */
function groups(assigned: Uint32Array, size: number): { order: Uint32Array; starts: Uint32Array } {
  const starts = new Uint32Array(size + 1);
  for (const code of assigned) starts[code + 1]++;
  for (let k = 0; k < size; k++) starts[k + 1] += starts[k];
  const next = starts.slice();
  const order = new Uint32Array(assigned.length);
  assigned.forEach((code, i) => {
    order[next[code]++] = i;
  });
  return { order, starts };
}

export interface Assigned {
  /** [size, width] sums of each code's points. */
  sums: Float64Array;
  /** [size] */
  counts: Uint32Array;
  /** [n] squared distance of each point from its code. */
  distances: Float64Array;
  /** Their sum. */
  total: number;
}

/** What the next codes follow from. */
export function statistics(points: Float32Array, codes: Float32Array, assigned: Uint32Array, width: number): Assigned {
  const sums = new Float64Array(codes.length);
  const counts = new Uint32Array(codes.length / width);
  const distances = new Float64Array(assigned.length);
  let total = 0;
  for (let i = 0; i < assigned.length; i++) {
    const [from, to] = [i * width, assigned[i] * width];
    for (let j = 0; j < width; j++) sums[to + j] += points[from + j];
    counts[assigned[i]]++;
    distances[i] = squaredDistance(points, from, codes, to, width);
    total += distances[i];
  }
  return { sums, counts, distances, total };
}

/** Codes become the means of their points; those without any the points that are farthest from their codes. In place. */
export function moveCodes(
  points: Float32Array,
  codes: Float32Array,
  assigned: Uint32Array,
  { sums, counts, distances }: Assigned,
  width: number,
): void {
  for (let code = 0; code < counts.length; code++) {
    if (counts[code] > 0) {
      for (let at = code * width; at < (code + 1) * width; at++) codes[at] = sums[at] / counts[code];
      continue;
    }
    let farthest = 0;
    for (let i = 1; i < distances.length; i++) if (distances[i] > distances[farthest]) farthest = i;
    codes.set(points.subarray(farthest * width, (farthest + 1) * width), code * width);
    distances[farthest] = 0;
    assigned[farthest] = code;
  }
}
