/** Dense matrices in float64, row-major: what the Fréchet distance needs, fast enough for 2048 columns on one core. */

/** a[m, n], row-major. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly data: Float64Array;
}

/**
 * A positive semidefinite matrix S as its factor: with P the order of rows and columns, P S P^T = R^T R, R upper
 * trapezoidal [rank, n].
 */
export interface Factor {
  readonly matrix: Matrix;
  /** Column j of R belongs to row and column `order[j]` of S. */
  readonly order: Int32Array;
}

/**
 * Cholesky factorisation with diagonal pivoting. It ends where what is left is rounding: at a pivot below `tolerance`
 * times the largest diagonal element, so that a rank-deficient covariance has a factor of its own rank.
 * Of S the symmetric part is taken. Higham 2002, Accuracy and Stability of Numerical Algorithms, section 10.3.
 */
export function pivotedCholesky(s: Float64Array, n: number, tolerance = n * 2 ** -52): Factor {
  const r = new Float64Array(n * n);
  const order = Int32Array.from({ length: n }, (_, i) => i);
  const left = Float64Array.from({ length: n }, (_, i) => s[i * n + i]); // diagonal of what is left, in `order`
  const row = new Float64Array(n);
  const least = tolerance * left.reduce((most, value) => Math.max(most, value), 0);
  let rank = 0;
  for (; rank < n; rank++) {
    let pivot = rank;
    for (let j = rank + 1; j < n; j++) if (left[j] > left[pivot]) pivot = j;
    if (!(left[pivot] > least)) break;
    swap(order, rank, pivot);
    swap(left, rank, pivot);
    for (let k = 0; k < rank; k++) swap(r, k * n + rank, k * n + pivot);

    const p = order[rank];
    for (let j = rank; j < n; j++) row[j] = 0.5 * (s[p * n + order[j]] + s[order[j] * n + p]);
    subtractRows(row, r, rank, n);
    const root = Math.sqrt(left[rank]);
    const at = rank * n;
    r[at + rank] = root;
    for (let j = rank + 1; j < n; j++) {
      const value = row[j] / root;
      r[at + j] = value;
      left[j] -= value * value;
    }
  }
  return { matrix: { rows: rank, columns: n, data: r.subarray(0, rank * n) }, order };
}

function swap(a: Float64Array | Int32Array, i: number, j: number): void {
  const held = a[i];
  a[i] = a[j];
  a[j] = held;
}

/** row[j] -= sum over k < count of r[k, count] r[k, j], for j >= count; four rows of r at once. */
function subtractRows(row: Float64Array, r: Float64Array, count: number, n: number): void {
  let k = 0;
  for (; k + 4 <= count; k += 4) {
    const [r0, r1, r2, r3] = [k * n, (k + 1) * n, (k + 2) * n, (k + 3) * n];
    const [f0, f1, f2, f3] = [r[r0 + count], r[r1 + count], r[r2 + count], r[r3 + count]];
    for (let j = count; j < n; j++) row[j] -= f0 * r[r0 + j] + f1 * r[r1 + j] + f2 * r[r2 + j] + f3 * r[r3 + j];
  }
  for (; k < count; k++) {
    const f = r[k * n + count];
    for (let j = count; j < n; j++) row[j] -= f * r[k * n + j];
  }
}

/** Rows of b that stay in the cache while all rows of a pass by. */
const STRIP = 64;

/**
 * Inner products of all rows: y[i, j] = sum over k of a[i, k] b[j, k]. With `upper`, a[i, k] is zero for k < i and
 * left out.
 */
export function rowProducts(a: Matrix, b: Matrix, upper = false): Matrix {
  const { rows: m, columns: depth, data: x } = a;
  const { rows: n, data: z } = b;
  const y = new Float64Array(m * n);
  for (let strip = 0; strip < n; strip += STRIP) {
    const end = Math.min(n, strip + STRIP);
    for (let i = 0; i < m; i += 2) {
      // The last of an odd number of rows is done twice.
      const [a0, a1] = [i * depth, Math.min(i + 1, m - 1) * depth];
      const first = upper ? i : 0;
      for (let j = strip; j < end; j += 4) {
        const b0 = j * depth;
        const b1 = Math.min(j + 1, end - 1) * depth;
        const b2 = Math.min(j + 2, end - 1) * depth;
        const b3 = Math.min(j + 3, end - 1) * depth;
        let [s00, s01, s02, s03, s10, s11, s12, s13] = [0, 0, 0, 0, 0, 0, 0, 0];
        for (let k = first; k < depth; k++) {
          const [p, q] = [x[a0 + k], x[a1 + k]];
          const [u0, u1, u2, u3] = [z[b0 + k], z[b1 + k], z[b2 + k], z[b3 + k]];
          s00 += p * u0;
          s01 += p * u1;
          s02 += p * u2;
          s03 += p * u3;
          s10 += q * u0;
          s11 += q * u1;
          s12 += q * u2;
          s13 += q * u3;
        }
        const [top, low] = [
          [s00, s01, s02, s03],
          [s10, s11, s12, s13],
        ];
        for (let c = 0; c < Math.min(4, end - j); c++) {
          y[i * n + j + c] = top[c];
          if (i + 1 < m) y[(i + 1) * n + j + c] = low[c];
        }
      }
    }
  }
  return { rows: m, columns: n, data: y };
}

/**
 * The singular values of a matrix, in no order, each with an error of rounding against the largest: Householder
 * bidiagonalisation, then the eigenvalues of the symmetric tridiagonal matrix that has +-sigma.
 * Golub, Kahan 1965; each sweep over the matrix does two of its four updates, as in Howell et al. 2008.
 */
export function singularValues(a: Matrix): Float64Array {
  const tall = a.rows >= a.columns ? a.data.slice() : transpose(a);
  const [m, n] = [Math.max(a.rows, a.columns), Math.min(a.rows, a.columns)];
  if (n === 0) return new Float64Array(0);
  const { diagonal, above } = bidiagonalise(tall, m, n);
  const e = new Float64Array(2 * n);
  for (let i = 0; i < n; i++) {
    e[2 * i] = diagonal[i];
    if (i + 1 < n) e[2 * i + 1] = above[i];
  }
  const values = tridiagonalEigenvalues(new Float64Array(2 * n), e).sort();
  // Pairs of +-sigma: of each the larger half, so that rounding cancels.
  return Float64Array.from({ length: n }, (_, i) => (values[2 * n - 1 - i] - values[i]) / 2);
}

function transpose({ rows, columns, data }: Matrix): Float64Array {
  const y = new Float64Array(data.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) y[j * rows + i] = data[i * columns + j];
  return y;
}

/** Makes x[start ...] the vector u of the reflector I - tau u u^T that sends it to (value, 0, ...). */
function reflector(x: Float64Array, start: number, end: number): { tau: number; value: number } {
  let rest = 0;
  for (let i = start + 1; i < end; i++) rest += x[i] * x[i];
  const head = x[start];
  x[start] = 1;
  if (rest === 0) return { tau: 0, value: head };
  const norm = Math.sqrt(head * head + rest);
  const value = head > 0 ? -norm : norm;
  for (let i = start + 1; i < end; i++) x[i] /= head - value;
  return { tau: (value - head) / value, value };
}

/** Overwrites a[m, n], m >= n. */
function bidiagonalise(a: Float64Array, m: number, n: number): { diagonal: Float64Array; above: Float64Array } {
  const [diagonal, above] = [new Float64Array(n), new Float64Array(n)];
  // Row i of the matrix is a[i] - z[i] v: the right update of a step is done in the first sweep of the next one.
  const [u, z] = [new Float64Array(m), new Float64Array(m)];
  const [v, w, next] = [new Float64Array(n), new Float64Array(n), new Float64Array(n)];
  for (let k = 0; k < n; k++) {
    for (let i = k; i < m; i++) u[i] = a[i * n + k] - z[i] * v[k];
    const left = reflector(u, k, m);
    diagonal[k] = left.value;
    if (k + 1 === n) break;
    w.fill(0);
    updateAndSum(a, m, n, k, z, v, u, w);
    for (let j = k + 1; j < n; j++) {
      w[j] *= left.tau;
      next[j] = a[k * n + j] - w[j];
    }
    const right = reflector(next, k + 1, n);
    above[k] = right.value;
    updateAndMultiply(a, m, n, k, u, w, next, z);
    for (let i = k + 1; i < m; i++) z[i] *= right.tau;
    v.set(next);
  }
  return { diagonal, above };
}

/** a[i] -= z[i] v, then w += u[i] a[i], for rows from k and columns after k; four rows at once. */
function updateAndSum(
  a: Float64Array,
  m: number,
  n: number,
  k: number,
  z: Float64Array,
  v: Float64Array,
  u: Float64Array,
  w: Float64Array,
): void {
  let i = k;
  for (; i + 4 <= m; i += 4) {
    const [a0, a1, a2, a3] = [i * n, (i + 1) * n, (i + 2) * n, (i + 3) * n];
    const [z0, z1, z2, z3] = [z[i], z[i + 1], z[i + 2], z[i + 3]];
    const [u0, u1, u2, u3] = [u[i], u[i + 1], u[i + 2], u[i + 3]];
    for (let j = k + 1; j < n; j++) {
      const f = v[j];
      const x0 = a[a0 + j] - z0 * f;
      const x1 = a[a1 + j] - z1 * f;
      const x2 = a[a2 + j] - z2 * f;
      const x3 = a[a3 + j] - z3 * f;
      a[a0 + j] = x0;
      a[a1 + j] = x1;
      a[a2 + j] = x2;
      a[a3 + j] = x3;
      w[j] += u0 * x0 + u1 * x1 + u2 * x2 + u3 * x3;
    }
  }
  for (; i < m; i++) {
    for (let j = k + 1; j < n; j++) w[j] += u[i] * (a[i * n + j] -= z[i] * v[j]);
  }
}

/** a[i] -= u[i] w, then z[i] = a[i] . v, for rows and columns after k; four rows at once. */
function updateAndMultiply(
  a: Float64Array,
  m: number,
  n: number,
  k: number,
  u: Float64Array,
  w: Float64Array,
  v: Float64Array,
  z: Float64Array,
): void {
  let i = k + 1;
  for (; i + 4 <= m; i += 4) {
    const [a0, a1, a2, a3] = [i * n, (i + 1) * n, (i + 2) * n, (i + 3) * n];
    const [u0, u1, u2, u3] = [u[i], u[i + 1], u[i + 2], u[i + 3]];
    let [s0, s1, s2, s3] = [0, 0, 0, 0];
    for (let j = k + 1; j < n; j++) {
      const [f, g] = [w[j], v[j]];
      const x0 = a[a0 + j] - u0 * f;
      const x1 = a[a1 + j] - u1 * f;
      const x2 = a[a2 + j] - u2 * f;
      const x3 = a[a3 + j] - u3 * f;
      a[a0 + j] = x0;
      a[a1 + j] = x1;
      a[a2 + j] = x2;
      a[a3 + j] = x3;
      s0 += x0 * g;
      s1 += x1 * g;
      s2 += x2 * g;
      s3 += x3 * g;
    }
    z[i] = s0;
    z[i + 1] = s1;
    z[i + 2] = s2;
    z[i + 3] = s3;
  }
  for (; i < m; i++) {
    let sum = 0;
    for (let j = k + 1; j < n; j++) sum += (a[i * n + j] -= u[i] * w[j]) * v[j];
    z[i] = sum;
  }
}

/**
 * Eigenvalues of the symmetric tridiagonal matrix with diagonal d and e[i] between i and i + 1; d holds them after.
 * Implicit QL with Wilkinson's shift (Martin, Wilkinson 1968, imtql1); what is below rounding against the norm is zero.
 */
export function tridiagonalEigenvalues(d: Float64Array, e: Float64Array): Float64Array {
  const n = d.length;
  e[n - 1] = 0;
  let norm = 0;
  for (let i = 0; i < n; i++) norm = Math.max(norm, Math.abs(d[i]) + Math.abs(e[i]));
  const small = norm * 2 ** -53;
  for (let first = 0; first < n; first++) {
    for (;;) {
      let last = first;
      while (last < n - 1 && Math.abs(e[last]) > small) last++;
      if (last === first) break;
      let g = (d[first + 1] - d[first]) / (2 * e[first]);
      let r = Math.sqrt(g * g + 1);
      g = d[last] - d[first] + e[first] / (g + (g < 0 ? -r : r));
      let [sine, cosine, p] = [1, 1, 0];
      let i = last - 1;
      for (; i >= first; i--) {
        const f = sine * e[i];
        const b = cosine * e[i];
        r = Math.sqrt(f * f + g * g);
        e[i + 1] = r;
        if (r === 0) break;
        sine = f / r;
        cosine = g / r;
        g = d[i + 1] - p;
        r = (d[i] - g) * sine + 2 * cosine * b;
        p = sine * r;
        d[i + 1] = g + p;
        g = cosine * r - b;
      }
      if (i >= first) {
        d[i + 1] -= p;
        e[last] = 0;
        continue;
      }
      d[first] -= p;
      e[first] = g;
      e[last] = 0;
    }
  }
  return d;
}
