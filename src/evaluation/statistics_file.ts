/**
 * Statistics of a data set as `.npz`, the form in which reference statistics are published: `mu` and `sigma`, and for
 * sFID `mu_s` and `sigma_s` (ADM's names). Files of ours also say which features they are of (`extractor`, UTF-8) and of
 * how many images (`count`).
 */
import { EmigmError } from '../errors.ts';
import { readNpz, writeNpz } from '../formats/npz.ts';
import type { Tensor } from '../formats/safetensors_parse.ts';
import type { Statistics } from './moments.ts';

export interface StatisticsFile {
  readonly statistics: Statistics;
  /** Of the spatial features, for sFID. */
  readonly spatial?: Statistics;
  /** Which network's features, as `fullName` tells it; undefined in files of others. */
  readonly extractor?: string;
}

/** @throws EmigmError 'file' when it is no such file, 'shape' when mean and covariance do not fit together */
export async function readStatistics(path: string): Promise<StatisticsFile> {
  const arrays = await readNpz(path);
  const count = arrays.get('count');
  const images = count && Number(count.data[0]);
  const statistics = read(path, arrays, 'mu', 'sigma', images);
  if (!statistics) {
    const names = [...arrays.keys()].join(', ') || 'nothing';
    throw new EmigmError('file', `${path}: holds no mu and sigma but ${names}; give statistics or a folder of images`);
  }
  const extractor = arrays.get('extractor');
  return {
    statistics,
    spatial: read(path, arrays, 'mu_s', 'sigma_s', images),
    extractor: extractor && new TextDecoder().decode(Uint8Array.from(extractor.data as Uint8Array)),
  };
}

function read(
  path: string,
  arrays: ReadonlyMap<string, Tensor>,
  mu: string,
  sigma: string,
  count: number | undefined,
): Statistics | undefined {
  const [mean, covariance] = [arrays.get(mu), arrays.get(sigma)];
  if (!mean || !covariance) return undefined;
  const d = mean.data.length;
  const square = covariance.shape.length === 2 && covariance.shape.every((size) => size === d);
  if (mean.shape.length !== 1 || !square) {
    throw new EmigmError(
      'shape',
      `${path}: ${mu} is [${mean.shape}] and ${sigma} is [${covariance.shape}]; a mean and its covariance are [n], [n, n]`,
    );
  }
  for (const { dtype } of [mean, covariance]) {
    if (dtype !== 'F64' && dtype !== 'F32') throw new EmigmError('file', `${path}: statistics in ${dtype}, not floats`);
  }
  return {
    mean: new Float64Array(mean.data as Float64Array),
    covariance: new Float64Array(covariance.data as Float64Array),
    ...(count !== undefined && { count }),
    ...(covariance.dtype === 'F32' && { single: true }),
  };
}

/** Writes statistics in float64 under a temporary name first. @throws EmigmError 'file' when the disk refuses */
export async function writeStatistics(path: string, { statistics, spatial, extractor }: StatisticsFile): Promise<void> {
  const f64 = (data: Float64Array, shape: number[]): Tensor => ({ dtype: 'F64', shape, data: new Float64Array(data) });
  const arrays = ({ mean, covariance }: Statistics, suffix = '') => ({
    [`mu${suffix}`]: f64(mean, [mean.length]),
    [`sigma${suffix}`]: f64(covariance, [mean.length, mean.length]),
  });
  const name = extractor === undefined ? undefined : new TextEncoder().encode(extractor);
  await writeNpz(path, {
    ...arrays(statistics),
    ...(spatial && arrays(spatial, '_s')),
    ...(statistics.count !== undefined && { count: f64(Float64Array.of(statistics.count), [1]) }),
    ...(name && { extractor: { dtype: 'U8', shape: [name.length], data: new Uint8Array(name) } }),
  });
}
