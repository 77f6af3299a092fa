/** The Fréchet distance between two Gaussians: FID when the features are Inception's (Heusel et al. 2017). */
import { EmigmError } from '../errors.ts';
import { type Factor, pivotedCholesky, rowProducts, singularValues } from './linear_algebra.ts';
import type { Statistics } from './moments.ts';

/**
 * |mu1 - mu2|^2 + Tr(S1 + S2 - 2 (S1 S2)^1/2), in float64.
 *
 * With S1 = A^T A and S2 = B^T B, the trace of the square root is the sum of the singular values of A B^T. A and B come
 * from a pivoted Cholesky factorisation that ends at the rank of the covariance, so fewer images than features are no
 * special case, and nothing is added to the diagonal.
 * @throws EmigmError 'shape' when the statistics are of different features, 'numeric' when one is not finite
 */
export function frechetDistance(a: Statistics, b: Statistics): number {
  const d = a.mean.length;
  for (const { mean, covariance } of [a, b]) {
    if (mean.length !== d || covariance.length !== d * d) {
      throw new EmigmError(
        'shape',
        `statistics of ${a.mean.length} and of ${b.mean.length} features cannot be compared; were they made by the same network?`,
      );
    }
    if (!mean.every(Number.isFinite) || !covariance.every(Number.isFinite)) {
      throw new EmigmError('numeric', 'statistics hold a number that is not finite');
    }
  }
  let distance = 0;
  for (let i = 0; i < d; i++) {
    distance += (a.mean[i] - b.mean[i]) ** 2 + a.covariance[i * d + i] + b.covariance[i * d + i];
  }
  return distance - 2 * rootTrace(factor(a), factor(b));
}

/** What rounding of the covariance has left below this share of its largest element is no variance. */
function factor({ covariance, mean, single }: Statistics): Factor {
  return pivotedCholesky(covariance, mean.length, single ? 2 ** -22 : undefined);
}

/** Tr (S1 S2)^1/2 of two factored matrices. */
function rootTrace(a: Factor, b: Factor): number {
  const [rows, depth] = [b.matrix.rows, b.matrix.columns];
  // The columns of b in the order of a's.
  const column = new Int32Array(depth);
  b.order.forEach((original, j) => {
    column[original] = j;
  });
  const data = new Float64Array(rows * depth);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < depth; j++) data[i * depth + j] = b.matrix.data[i * depth + column[a.order[j]]];
  }
  const product = rowProducts(a.matrix, { rows, columns: depth, data }, true);
  return singularValues(product).reduce((sum, value) => sum + value, 0);
}
