/** Precision and recall against their definition, pair by pair, on the host and on the device. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { deviceProducts } from '../../src/evaluation/device_products.ts';
import { hostProducts, points, precisionRecall, squaredRadii } from '../../src/evaluation/precision_recall.ts';
import { Device } from '../../src/gpu/device.ts';
import { expectClose, random } from '../helpers/golden.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

describe.each(['host', 'device'])('precision and recall on the %s', (where) => {
  // Small blocks, so that sets take several and the last ones are not full.
  const products = () => ({ ...(where === 'host' ? hostProducts : deviceProducts(device)), block: [16, 32] as const });

  it('equal the definition, pair by pair', async () => {
    // On the device a fixed seed: in float32 a point may by chance lie on the border of a ball.
    const rng = random(where === 'device' ? 7 : undefined);
    const [d, n, m, k] = [8, 70, 45, 3];
    const [a, b] = [rng.normal(n * d), rng.normal(m * d, 0.8)];
    a.copyWithin(d, 0, d); // duplicates are neighbours
    const distance = (x: Float32Array, i: number, y: Float32Array, j: number) => {
      let sum = 0;
      for (let c = 0; c < d; c++) sum += (x[i * d + c] - y[j * d + c]) ** 2;
      return sum;
    };
    const every = (count: number) => Array.from({ length: count }, (_, i) => i);
    const radii = (x: Float32Array) =>
      every(x.length / d).map((i) => {
        const others = every(x.length / d).filter((j) => j !== i);
        return others.map((j) => distance(x, i, x, j)).sort((p, q) => p - q)[k - 1];
      });
    const inside = (x: Float32Array, y: Float32Array) => {
      const reach = radii(x);
      return every(y.length / d).filter((j) => every(x.length / d).some((i) => distance(x, i, y, j) <= reach[i]));
    };
    const options = { k, products: products() };
    const found = await squaredRadii(points(a, d), options);
    expectClose(found, radii(a), { relative: where === 'host' ? 1e-13 : 1e-5 }, 'radii');
    const done: number[] = [];
    const onProgress = (share: number) => done.push(share);
    expect(await precisionRecall(points(a, d), points(b, d), { ...options, onProgress })).toEqual({
      precision: inside(a, b).length / m,
      recall: inside(b, a).length / n,
    });
    expect(done.at(-1)).toBeCloseTo(1, 12);
    expect(done).toEqual([...done].sort((p, q) => p - q));
    expect(await precisionRecall(points(a, d), points(a, d), options)).toEqual({ precision: 1, recall: 1 });
  });

  it('refuse fewer images than neighbours, other features, NaN; stop when asked to', async () => {
    const set = points(new Float32Array(6), 2);
    await expect(squaredRadii(set, { products: products() })).rejects.toThrow(/more than 3 images, not 3/);
    await expect(precisionRecall(set, points(new Float32Array(6), 3))).rejects.toThrow(/2 and with 3 features/);
    expect(() => points(Float32Array.of(1, Number.NaN), 2)).toThrow(/not finite/);
    const signal = AbortSignal.abort();
    await expect(squaredRadii(set, { k: 1, products: products(), signal })).rejects.toThrow('stopped');
  });
});
